package bpe

import "slices"

// byHeap merges a piece, and keeps the allowed merges in a heap by rank, then by
// offset: a merge takes time logarithmic in the length of the piece. The tokens
// form a linked list of the offsets at which they start, so next is also the end
// of a token.
func (m *merger) byHeap(e *Encoding, piece string) {
	n := int32(len(m.ids))
	if cap(m.next) < len(m.ids) {
		m.next, m.prev = make([]int32, cap(m.ids)), make([]int32, cap(m.ids))
	}
	next, prev := m.next[:n], m.prev[:n]
	q := slices.Grow(m.queue[:0], len(m.ids))
	for i := range n {
		next[i], prev[i] = i+1, i-1
		if r := m.ranks[i]; r != noRank {
			q = append(q, uint64(r)<<32|uint64(i))
		}
	}
	slices.Sort(q) // a sorted list is a heap

	for len(q) > 0 {
		top := q[0]
		q = pop(q)
		rank, at := int32(top>>32), int32(uint32(top))
		if m.ranks[at] != rank {
			continue // one of the two has merged since this was queued
		}
		gone := next[at]
		m.ids[at] = e.merged(rank)
		m.ranks[gone] = noRank
		next[at] = next[gone]
		if right := next[at]; right < n {
			prev[right] = at
			m.ranks[at] = e.rank(piece, at, next[right], m.ids[at], m.ids[right])
			if r := m.ranks[at]; r != noRank {
				q = push(q, uint64(r)<<32|uint64(at))
			}
		} else {
			m.ranks[at] = noRank
		}
		if left := prev[at]; left >= 0 {
			m.ranks[left] = e.rank(piece, left, next[at], m.ids[left], m.ids[at])
			if r := m.ranks[left]; r != noRank {
				q = push(q, uint64(r)<<32|uint64(left))
			}
		}
	}
	m.queue = q

	kept := int32(0)
	for i := int32(0); i < n; i = next[i] {
		m.ids[kept] = m.ids[i]
		kept++
	}
	m.ids = m.ids[:kept]
}

// push adds x to a heap with the least value first. Unlike container/heap it makes
// no interface calls.
func push(q []uint64, x uint64) []uint64 {
	q = append(q, x)
	i := len(q) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if q[parent] <= x {
			break
		}
		q[i] = q[parent]
		i = parent
	}
	q[i] = x
	return q
}

// pop removes the least value of a heap.
func pop(q []uint64) []uint64 {
	x := q[len(q)-1]
	q = q[:len(q)-1]
	if len(q) == 0 {
		return q
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= len(q) {
			break
		}
		if child+1 < len(q) && q[child+1] < q[child] {
			child++
		}
		if q[child] >= x {
			break
		}
		q[i] = q[child]
		i = child
	}
	q[i] = x
	return q
}
