package bpe

import "fmt"

// Pairs are the merges of a tokenizer.json: which two tokens make which, in
// order of rank. Immutable.
type Pairs struct {
	ranks   map[uint64]int32
	results []int32
}

// NewPairs lists merges of v. left[i] and right[i] merge at rank i. The error
// names a merge whose parts or result the vocabulary does not have.
func NewPairs(v *Vocab, left, right []string) (*Pairs, error) {
	p := &Pairs{ranks: make(map[uint64]int32, len(left)), results: make([]int32, len(left))}
	for i := range left {
		a, b, both := v.lookup(left[i]), v.lookup(right[i]), v.lookup(left[i]+right[i])
		if a == none || b == none || both == none {
			return nil, fmt.Errorf("merge %d of %q and %q: want tokens of the vocabulary that make one", i, left[i], right[i])
		}
		key := uint64(a)<<32 | uint64(b)
		if _, twice := p.ranks[key]; !twice {
			p.ranks[key] = int32(i)
		}
		p.results[i] = both
	}
	return p, nil
}

func (p *Pairs) rank(left, right int32) int32 {
	if r, ok := p.ranks[uint64(left)<<32|uint64(right)]; ok {
		return r
	}
	return noRank
}
