package voyage

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/choked/choked/estimator/internal/bpe"
)

// component is a normalizer, a pre-tokenizer or a post-processor of a
// tokenizer.json. It has the fields of all supported types.
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

	AddPrefixSpace *bool `json:"add_prefix_space"` // null is true
	UseRegex       *bool `json:"use_regex"`        // null is true

	Single []map[string]json.RawMessage `json:"single"`
}

// normalizes reports whether text is normalised to Unicode's form C.
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

// split returns the pattern that cuts a text into pieces. The pre-tokenizer is
// either a ByteLevel, which implies the pattern of GPT-2, or a Split with a known
// pattern and after it a ByteLevel without one.
func (c *component) split() (bpe.Split, error) {
	if c == nil {
		return 0, errors.New("no pre_tokenizer: want ByteLevel, as byte-level BPE has")
	}
	steps := []component{*c}
	if c.Type == "Sequence" {
		steps = c.PreTokenizers
	}
	var split bpe.Split
	byteLevel := false
	for _, step := range steps {
		if byteLevel {
			return 0, fmt.Errorf("pre_tokenizer %q after ByteLevel is not supported: want ByteLevel last", step.Type)
		}
		found, err := step.stepSplit()
		if err != nil {
			return 0, err
		}
		if found != 0 && split != 0 {
			return 0, errors.New("pre_tokenizer that splits twice is not supported: want one Split, or one ByteLevel with use_regex")
		}
		split = max(split, found)
		byteLevel = step.Type == "ByteLevel"
	}
	if split == 0 || !byteLevel {
		return 0, fmt.Errorf("pre_tokenizer %q is not supported: want a known split pattern and ByteLevel", c.Type)
	}
	return split, nil
}

// stepSplit returns the pattern of one step of a pre-tokenizer, 0 for a ByteLevel
// without one.
func (c *component) stepSplit() (bpe.Split, error) {
	switch c.Type {
	case "Split":
		return c.pattern()
	case "ByteLevel":
		if c.AddPrefixSpace == nil || *c.AddPrefixSpace {
			return 0, errors.New("pre_tokenizer ByteLevel with add_prefix_space is not supported: want false")
		}
		if c.UseRegex == nil || *c.UseRegex {
			return bpe.GPT2, nil
		}
		return 0, nil
	}
	return 0, fmt.Errorf("pre_tokenizer %q is not supported: want Split and ByteLevel", c.Type)
}

// pattern returns the split of a Split component.
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

// frame returns the number of tokens that are put around every text.
func (c *component) frame() (int, error) {
	if c == nil {
		return 0, nil
	}
	switch c.Type {
	case "ByteLevel":
		return 0, nil // changes offsets only
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
