package bpe

import "fmt"

// Pairs holds the merges of a tokenizer.json: pairs of tokens with their rank, and
// the token that each makes. It is immutable and safe for concurrent use.
type Pairs struct {
	ranks   map[uint64]int32
	results []int32
}

// NewPairs returns the merges of tokens of v: left[i] and right[i] merge at rank i.
// The error names a merge whose parts or result are not in the vocabulary.
func NewPairs(v *Vocab, left, right []string) (*Pairs, error) {
	p := &Pairs{ranks: make(map[uint64]int32, len(left)), results: make([]int32, len(left))}
	for i := range left {
		a, b, both := v.lookup(left[i]), v.lookup(right[i]), v.lookup(left[i]+right[i])
		if a == none || b == none || both == none {
			return nil, fmt.Errorf("merge %d of %q and %q: want tokens of the vocabulary that make a token of it", i, left[i], right[i])
		}
		key := uint64(a)<<32 | uint64(b)
		if _, twice := p.ranks[key]; !twice {
			p.ranks[key] = int32(i)
		}
		p.results[i] = both
	}
	return p, nil
}

// rank returns the rank of the merge of two tokens, or noRank.
func (p *Pairs) rank(left, right int32) int32 {
	if r, ok := p.ranks[uint64(left)<<32|uint64(right)]; ok {
		return r
	}
	return noRank
}
