package choked_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/storetest"
)

func TestLocalObeysTheLaw(t *testing.T) {
	storetest.Test(t, storetest.Harness{
		Open:    func(*testing.T) storetest.Store { return choked.NewLocal() },
		Advance: time.Sleep,
		In:      synctest.Test,
	})
}
