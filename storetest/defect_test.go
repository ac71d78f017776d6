package storetest_test

import (
	"github.com/choked/choked/bucket"
)

// defect is a way to break the store.
type defect int

const (
	none       defect = iota
	overtaking        // serves whoever can be served, as stores do that poll
	hoping            // lets asks wait that cannot be met in time
	ghosts            // forgets to take cancelled asks out of line
)

type loan struct{}

func (m *memory) applyLocked(op bucket.Op) bucket.Result { return m.table.Apply(m.now(), op) }
func (m *memory) repayLocked()                           {}
func (m *memory) spoil(l bucket.Lease) bucket.Lease      { return l }
