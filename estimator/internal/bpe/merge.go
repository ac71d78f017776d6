package bpe

import (
	"math"
	"sync"
)

// merger holds the memory to merge a piece, so that it is allocated once.
type merger struct {
	ids    []int32 // the tokens so far; the result, once merged
	starts []int32 // their offsets in the piece, and the length of the piece
	ranks  []int32 // of the merge with the next token; noRank if not allowed
	next   []int32 // neighbours, if merged by heap
	prev   []int32
	queue  []uint64
}

const noRank = math.MaxInt32

var mergers = sync.Pool{New: func() any { return new(merger) }}

// keepBelow is the piece size, in bytes, above which a merger is not kept for
// reuse: one long piece should not occupy memory for ever.
const keepBelow = 64 << 10

func (m *merger) free() {
	if cap(m.starts) <= keepBelow {
		mergers.Put(m)
	}
}

// scanBelow is the piece size, in bytes, below which a scan of all ranks for the
// lowest is faster than a heap (BenchmarkMerge).
const scanBelow = 48

// merge leaves the tokens of piece in m.ids. piece is not empty.
func (m *merger) merge(e *Encoding, piece string) {
	m.reset(e, piece)
	if len(piece) < scanBelow {
		m.byScan(e, piece)
	} else {
		m.byHeap(e, piece)
	}
}

// reset makes every byte a token.
func (m *merger) reset(e *Encoding, piece string) {
	n := len(piece)
	if cap(m.starts) < n+1 {
		size := n + 1
		if size <= keepBelow {
			size = 2 * max(size, scanBelow) // the next piece may be a little longer
		}
		m.ids, m.ranks, m.starts = make([]int32, size), make([]int32, size), make([]int32, size)
	}
	m.ids, m.ranks, m.starts = m.ids[:n], m.ranks[:n], m.starts[:n+1]
	v := e.vocab
	for i := range n {
		m.ids[i] = v.bytes[piece[i]]
		m.starts[i] = int32(i)
	}
	m.starts[n] = int32(n)
	for i := range n - 1 {
		if e.pairs != nil {
			m.ranks[i] = e.pairs.rank(m.ids[i], m.ids[i+1])
		} else if id := v.twos[int(piece[i])<<8|int(piece[i+1])]; id != none {
			m.ranks[i] = id
		} else {
			m.ranks[i] = noRank
		}
	}
	m.ranks[n-1] = noRank
}

// byScan merges a piece, and scans all ranks for the lowest before each merge.
func (m *merger) byScan(e *Encoding, piece string) {
	ids, starts, ranks := m.ids, m.starts, m.ranks
	for n := len(ids); ; n-- {
		lowest, at := int32(noRank), 0
		for i, r := range ranks[:n] {
			if r < lowest {
				lowest, at = r, i
			}
		}
		if lowest == noRank {
			m.ids = ids[:n]
			return
		}
		ids[at] = e.merged(lowest)
		copy(ids[at+1:n], ids[at+2:n])
		copy(starts[at+1:n], starts[at+2:n+1])
		copy(ranks[at+1:n-1], ranks[at+2:n])
		if at+1 < n-1 {
			ranks[at] = e.rank(piece, starts[at], starts[at+2], ids[at], ids[at+1])
		} else {
			ranks[at] = noRank
		}
		if at > 0 {
			ranks[at-1] = e.rank(piece, starts[at-1], starts[at+1], ids[at-1], ids[at])
		}
	}
}

// rank returns the rank of the merge of two neighbours: the tokens left and right,
// which together are piece[lo:hi].
func (e *Encoding) rank(piece string, lo, hi, left, right int32) int32 {
	if e.pairs != nil {
		return e.pairs.rank(left, right)
	}
	if id := e.vocab.lookup(piece[lo:hi]); id != none {
		return id
	}
	return noRank
}

// merged returns the token that a merge of that rank makes.
func (e *Encoding) merged(rank int32) int32 {
	if e.pairs != nil {
		return e.pairs.results[rank]
	}
	return rank
}
