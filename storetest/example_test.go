package storetest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/choked/choked/storetest"
)

// A store in memory is tested in bubbles, on virtual time.
func ExampleTest() {
	_ = func(t *testing.T) { // func TestStore(t *testing.T)
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store { return newMemory(none) },
			In:   synctest.Test,
		})
	}
}

// A store over a network is tested on the real clock, on which answers may be late.
func ExampleTest_network() {
	_ = func(t *testing.T) { // func TestStore(t *testing.T)
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store { return newMemory(none) },
			Unavailable: func(t *testing.T) (storetest.Store, string) {
				m := newMemory(none)
				m.down = true // such as a store whose server is away
				return m, errDown.Error()
			},
			Slack: 200 * time.Millisecond,
			Skip:  map[string]string{"bound": "the server under test is shared"},
		})
	}
}
