package voyage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/choked/choked/estimator/internal/bpe"
)

// Limits on a file, which are checked before its content is used. The largest file
// of Voyage has 11 MB and 152,000 tokens. Files of others have up to three merges
// for a token, and added tokens of about thirty bytes.
const (
	maxFile      = 64 << 20 // bytes
	maxID        = 1 << 21
	maxMerges    = 1 << 20
	maxAdded     = 4096
	maxAddedSize = 128 // bytes; at each place of a text every size is tried
)

// file holds the fields of a tokenizer.json that change counts.
type file struct {
	Added         []added         `json:"added_tokens"`
	Normalizer    *component      `json:"normalizer"`
	PreTokenizer  *component      `json:"pre_tokenizer"`
	PostProcessor *component      `json:"post_processor"`
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	Model         struct {
		Type         string           `json:"type"`
		Vocab        map[string]int64 `json:"vocab"`
		Merges       merges           `json:"merges"`
		Dropout      *float64         `json:"dropout"`
		Prefix       *string          `json:"continuing_subword_prefix"`
		Suffix       *string          `json:"end_of_word_suffix"`
		IgnoreMerges bool             `json:"ignore_merges"`
	} `json:"model"`
}

// added is an added token, which is matched before the text is split.
type added struct {
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
}

// merges is a list of at most maxMerges merges.
type merges []merge

func (ms *merges) UnmarshalJSON(b []byte) error {
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list) > maxMerges {
		return fmt.Errorf("%d merges: want at most %d", len(list), maxMerges)
	}
	*ms = make(merges, len(list))
	for i := range list {
		if err := (*ms)[i].UnmarshalJSON(list[i]); err != nil {
			return err
		}
	}
	return nil
}

// merge joins two tokens. A file has it as "left right" or ["left", "right"].
type merge struct{ left, right string }

func (m *merge) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		var ok bool
		if m.left, m.right, ok = strings.Cut(s, " "); ok {
			return nil
		}
	}
	var pair []string
	if json.Unmarshal(b, &pair) == nil && len(pair) == 2 {
		m.left, m.right = pair[0], pair[1]
		return nil
	}
	return fmt.Errorf("merge %.80s: want \"left right\" or [\"left\", \"right\"]", b)
}

// readFile returns the tokenizer in a file.
func readFile(path string) (*tokenizer, error) {
	// To open a named pipe would block until another process writes to it.
	if info, err := stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxFile {
		return nil, fmt.Errorf("file is larger than %d MB", maxFile>>20)
	}
	return parse(body)
}

// parse returns the tokenizer that the content of a file describes.
func parse(body []byte) (*tokenizer, error) {
	var f file
	err := json.Unmarshal(body, &f)
	switch kind := f.Model.Type; {
	case kind != "" && kind != "BPE": // err may only mean that its vocabulary has another form
		return nil, fmt.Errorf("model type %q is not supported: want \"BPE\"", kind)
	case err != nil:
		return nil, fmt.Errorf("not a tokenizer.json: %w", err)
	}
	if err := f.unsupported(); err != nil {
		return nil, err
	}
	t := new(tokenizer)
	if t.nfc, err = f.Normalizer.normalizes(); err != nil {
		return nil, err
	}
	split, err := f.PreTokenizer.split()
	if err != nil {
		return nil, err
	}
	if t.frame, err = f.PostProcessor.frame(); err != nil {
		return nil, err
	}
	if t.raw, t.normalised, err = matchers(f.Added, t.nfc); err != nil {
		return nil, err
	}
	t.encoding, err = f.encoding(split)
	return t, err
}

// unsupported returns an error that names the first setting that would change
// counts and is not supported.
func (f *file) unsupported() error {
	switch m := f.Model; {
	case m.Type == "" && len(m.Merges) == 0:
		return errors.New("no model type: want \"BPE\"")
	case m.Dropout != nil && *m.Dropout != 0:
		return fmt.Errorf("model dropout %g is not supported: want none", *m.Dropout)
	case m.Prefix != nil && *m.Prefix != "":
		return fmt.Errorf("continuing_subword_prefix %q is not supported: want none", *m.Prefix)
	case m.Suffix != nil && *m.Suffix != "":
		return fmt.Errorf("end_of_word_suffix %q is not supported: want none", *m.Suffix)
	case isSet(f.Truncation):
		return errors.New("truncation is not supported: want none")
	case isSet(f.Padding):
		return errors.New("padding is not supported: want none")
	}
	return nil
}

func isSet(v json.RawMessage) bool { return len(v) > 0 && string(v) != "null" }

// matchers returns the matchers of the added tokens: before and after the text is
// normalised.
func matchers(tokens []added, nfc bool) (raw, normalised *matcher, err error) {
	if len(tokens) > maxAdded {
		return nil, nil, fmt.Errorf("%d added tokens: want at most %d", len(tokens), maxAdded)
	}
	var before, after []string
	for _, a := range tokens {
		switch {
		case a.Content == "":
			return nil, nil, errors.New("added token without content: want some")
		case len(a.Content) > maxAddedSize:
			return nil, nil, fmt.Errorf("added token %.40q… of %d bytes: want at most %d", a.Content, len(a.Content), maxAddedSize)
		case a.SingleWord:
			return nil, nil, fmt.Errorf("added token %q: single_word is not supported: want false", a.Content)
		case a.LStrip || a.RStrip:
			return nil, nil, fmt.Errorf("added token %q: lstrip and rstrip are not supported: want false", a.Content)
		case a.Normalized && nfc:
			after = append(after, norm.NFC.String(a.Content))
		case a.Normalized:
			after = append(after, a.Content)
		default:
			before = append(before, a.Content)
		}
	}
	return newMatcher(before), newMatcher(after), nil
}

// encoding returns the BPE encoding. The tokens in the file are written in the
// letters that stand for bytes: see byteOf.
func (f *file) encoding(split bpe.Split) (*bpe.Encoding, error) {
	highest := int64(-1)
	for token, id := range f.Model.Vocab {
		if id < 0 || id > maxID {
			return nil, fmt.Errorf("token %q: id %d: want 0 to %d", token, id, maxID)
		}
		highest = max(highest, id)
	}
	byID := make([]string, highest+1)
	size := 0
	for token, id := range f.Model.Vocab {
		bytes, ok := toBytes(token)
		if !ok {
			continue // not bytes: it can only be matched as an added token
		}
		if byID[id] != "" {
			return nil, fmt.Errorf("token %q: id %d belongs to two tokens", token, id)
		}
		byID[id] = bytes
		size += len(bytes)
	}
	arena, offsets := make([]byte, 0, size), make([]uint32, 1, len(byID)+1)
	for _, t := range byID {
		arena = append(arena, t...)
		offsets = append(offsets, uint32(len(arena)))
	}
	v, err := bpe.NewVocab(string(arena), offsets)
	if err != nil {
		return nil, err
	}
	left, right := make([]string, len(f.Model.Merges)), make([]string, len(f.Model.Merges))
	for i, m := range f.Model.Merges {
		l, ok := toBytes(m.left)
		r, ok2 := toBytes(m.right)
		if !ok || !ok2 {
			return nil, fmt.Errorf("merge %d of %q and %q: want byte-level tokens", i, m.left, m.right)
		}
		left[i], right[i] = l, r
	}
	pairs, err := bpe.NewPairs(v, left, right)
	if err != nil {
		return nil, err
	}
	return bpe.NewPaired(v, split, pairs, f.Model.IgnoreMerges), nil
}

// byteOf maps each letter of a byte-level vocabulary to the byte that it stands
// for. As in GPT-2's encoder a printable byte is its own letter, and the others
// are, in order, the characters from U+0100.
var byteOf = func() map[rune]byte {
	m := map[rune]byte{}
	other := rune(0x100)
	for b := range 256 {
		if '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || b >= 0xae {
			m[rune(b)] = byte(b)
			continue
		}
		m[other] = byte(b)
		other++
	}
	return m
}()

// toBytes returns the bytes that the letters of a token stand for. It is not ok if a
// letter stands for none.
func toBytes(token string) (string, bool) {
	b := make([]byte, 0, len(token))
	for _, r := range token {
		c, ok := byteOf[r]
		if !ok {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}
