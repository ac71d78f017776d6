//go:build linux

package fleet

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Who has crashed is not among those that run, so nobody misses it before the end.
func TestStopTellsWhoHasEndedByItself(t *testing.T) {
	ended := func(name string, why error) *Process {
		p := ran(0, 0, 1)
		p.Job.Name, p.err = name, why
		return p
	}
	crash := errors.New("exit status 1")
	replaced, last, left, meant := ended("replaced", crash), ended("last", crash), ended("left", nil), ended("meant to", crash)
	assert.Equal(t, crash, meant.Ended(0))
	f := &Fleet{slots: []*Process{last, left, nil}, all: []*Process{replaced, meant, left, last}}
	err := f.Stop()
	assert.ErrorContains(t, err, "replaced has ended by itself: exit status 1")
	assert.ErrorContains(t, err, "last has ended by itself: exit status 1")
	assert.NotContains(t, err.Error(), "left", "nothing was wrong with it")
	assert.NotContains(t, err.Error(), "meant to", "a test has asked")
	assert.NoError(t, (&Fleet{slots: []*Process{left}, all: []*Process{meant, left}}).Stop())
}
