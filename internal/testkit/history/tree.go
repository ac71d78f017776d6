package history

import "math"

// tree holds a list of numbers. In logarithmic time it adds to a prefix of the list,
// and returns the largest number of a prefix. Node i is the parent of nodes 2i and
// 2i+1; the numbers are the leaves.
type tree struct {
	leaves int
	max    []float64 // largest number below each node, without additions above it
	added  []float64 // to all numbers below each node
}

func newTree(n int, value func(int) float64) *tree {
	t := &tree{leaves: 1}
	for t.leaves < n {
		t.leaves *= 2
	}
	t.max, t.added = make([]float64, 2*t.leaves), make([]float64, 2*t.leaves)
	for i := range t.leaves {
		t.max[t.leaves+i] = math.Inf(-1)
		if i < n {
			t.max[t.leaves+i] = value(i)
		}
	}
	for i := t.leaves - 1; i > 0; i-- {
		t.max[i] = max(t.max[2*i], t.max[2*i+1])
	}
	return t
}

// addTo adds v to the numbers 0 to last.
func (t *tree) addTo(last int, v float64) {
	i := t.leaves + last
	t.max[i] += v
	for ; i > 1; i /= 2 {
		if left := i - 1; i%2 == 1 { // all numbers below the sibling are in the prefix
			t.max[left] += v
			t.added[left] += v
		}
		t.max[i/2] = max(t.max[i&^1], t.max[i|1]) + t.added[i/2]
	}
}

// maxTo returns the largest of the numbers 0 to last.
func (t *tree) maxTo(last int) float64 {
	i := t.leaves + last
	m := t.max[i]
	for ; i > 1; i /= 2 {
		if i%2 == 1 {
			m = max(m, t.max[i-1])
		}
		m += t.added[i/2]
	}
	return m
}
