package storetest_test

import (
	"testing"
	"testing/synctest"

	"github.com/choked/choked/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Test(t, storetest.Harness{
		Open: func(*testing.T) storetest.Store { return newMemory(none) },
		In:   synctest.Test,
	})
}
