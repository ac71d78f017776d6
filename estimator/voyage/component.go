package voyage

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/choked/choked/estimator/internal/bpe"
)

// component is a normalizer, a pre-tokenizer or a post-processor, with the
// fields of all kinds that are understood.
type component struct {
	Type          string      `json:"type"`
	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`

	Pattern struct {
		Regex  *string `json:"Regex"`
		String *string `json:"String"`
	} `json:"pattern"`
	Behavior string `json:"behavior"`
	Invert   bool   `json:"invert"`

	AddPrefixSpace *bool `json:"add_prefix_space"` // true unless told
	UseRegex       *bool `json:"use_regex"`        // true unless told

	Single []map[string]json.RawMessage `json:"single"`
}

// normalizes says whether text is brought to Unicode's normal form C.
func (c *component) normalizes() (nfc bool, err error) {
	if c == nil {
		return false, nil
	}
	switch c.Type {
	case "NFC":
		return true, nil
	case "Sequence":
		for i := range c.Normalizers {
			one, err := c.Normalizers[i].normalizes()
			if err != nil {
				return false, err
			}
			nfc = nfc || one
		}
		return nfc, nil
	}
	return false, fmt.Errorf("normalizer %q is not supported: want NFC or none", c.Type)
}

// split finds the pattern that text is split by. A pre-tokenizer is "ByteLevel",
// which brings GPT-2's pattern, or a "Split" and a ByteLevel without it.
func (c *component) split() (bpe.Split, error) {
	if c == nil {
		return 0, errors.New("without a pre_tokenizer it is not byte-level BPE")
	}
	steps := []component{*c}
	if c.Type == "Sequence" {
		steps = c.PreTokenizers
	}
	var split bpe.Split
	byteLevel := false
	for _, s := range steps {
		if byteLevel {
			return 0, fmt.Errorf("pre_tokenizer %q behind ByteLevel is not supported: want ByteLevel last", s.Type)
		}
		var found bpe.Split
		switch s.Type {
		case "Split":
			one, err := s.pattern()
			if err != nil {
				return 0, err
			}
			found = one
		case "ByteLevel":
			if s.AddPrefixSpace == nil || *s.AddPrefixSpace {
				return 0, errors.New("pre_tokenizer ByteLevel with add_prefix_space is not supported")
			}
			byteLevel = true
			if s.UseRegex == nil || *s.UseRegex {
				found = bpe.GPT2
			}
		default:
			return 0, fmt.Errorf("pre_tokenizer %q is not supported: want Split and ByteLevel", s.Type)
		}
		if found != 0 && split != 0 {
			return 0, errors.New("a pre_tokenizer that splits twice is not supported")
		}
		split = max(split, found)
	}
	if split == 0 || !byteLevel {
		return 0, fmt.Errorf("pre_tokenizer %q is not supported: want a known split pattern and ByteLevel", c.Type)
	}
	return split, nil
}

func (c *component) pattern() (bpe.Split, error) {
	if c.Pattern.Regex == nil {
		return 0, errors.New("pre_tokenizer Split by a plain string is not supported: want a Regex")
	}
	if c.Behavior != "Isolated" || c.Invert {
		return 0, fmt.Errorf("pre_tokenizer Split with behavior %q and invert %t is not supported: want \"Isolated\" and false", c.Behavior, c.Invert)
	}
	split, ok := bpe.SplitOf(*c.Pattern.Regex)
	if !ok {
		return 0, fmt.Errorf("split pattern %q is not supported: want that of GPT-2, cl100k, o200k or Qwen", *c.Pattern.Regex)
	}
	return split, nil
}

// frame counts the tokens that are put around every text.
func (c *component) frame() (int, error) {
	if c == nil {
		return 0, nil
	}
	switch c.Type {
	case "ByteLevel":
		return 0, nil // trims offsets only
	case "TemplateProcessing":
		n := 0
		for _, piece := range c.Single {
			if _, ok := piece["SpecialToken"]; ok {
				n++
			}
		}
		return n, nil
	case "Sequence":
		n := 0
		for i := range c.Processors {
			one, err := c.Processors[i].frame()
			if err != nil {
				return 0, err
			}
			n += one
		}
		return n, nil
	}
	return 0, fmt.Errorf("post_processor %q is not supported: want ByteLevel, TemplateProcessing or none", c.Type)
}
