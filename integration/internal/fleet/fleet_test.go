//go:build linux

package fleet

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A crashed worker is not among the running ones, so only Stop can report it.
func TestStopReportsUnexpectedEnds(t *testing.T) {
	ended := func(name string, err error) *Process {
		p := ran(0, 0, 1)
		p.Job.Name, p.err = name, err
		return p
	}
	crash := errors.New("exit status 1")
	replaced, last, left, expected := ended("replaced", crash), ended("last", crash), ended("left", nil), ended("expected", crash)
	assert.Equal(t, crash, expected.AwaitEnd(0))
	f := &Fleet{slots: []*Process{last, left, nil}, all: []*Process{replaced, expected, left, last}}
	err := f.Stop()
	assert.ErrorContains(t, err, "replaced has ended by itself: exit status 1")
	assert.ErrorContains(t, err, "last has ended by itself: exit status 1")
	assert.NotContains(t, err.Error(), "left", "it ended without an error")
	assert.NotContains(t, err.Error(), "expected", "the test has learnt of it")
	assert.NoError(t, (&Fleet{slots: []*Process{left}, all: []*Process{expected, left}}).Stop())
}
