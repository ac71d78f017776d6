//go:build linux

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func plan(seed uint64, workers int, network, disks bool) (list []round) {
	for number := range uint64(50) {
		list = append(list, draw(seed, number, workers, network, disks))
	}
	return list
}

func TestTheSeedDecidesWhatComesWhen(t *testing.T) {
	assert.Equal(t, plan(1, 5, true, true), plan(1, 5, true, true))
	assert.NotEqual(t, plan(1, 5, true, true), plan(2, 5, true, true))
	assert.Equal(t, plan(1, 5, true, true)[49], draw(1, 49, 5, true, true), "no round depends on those before")
}

func TestAllFaultsComeAndBefallAll(t *testing.T) {
	for _, have := range []struct{ network, disks bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		counts, slots, wiped := make(map[string]int), make(map[int]int), make(map[int]int)
		for _, r := range plan(1, 5, have.network, have.disks) {
			assert.Len(t, r.strikes, strikesPerRound)
			wiped[r.wiped]++
			for _, k := range r.strikes {
				counts[k.name]++
				slots[k.slot]++
				assert.Contains(t, k.side, k.slot)
				assert.True(t, k.lasts >= 500*time.Millisecond && k.lasts < 5*time.Second, k.lasts)
				assert.True(t, k.rests >= 500*time.Millisecond && k.rests < 4*time.Second, k.rests)
			}
		}
		want := 0
		for _, f := range faults {
			if able := (have.network || !f.network) && (have.disks || !f.disks); able {
				want++
			} else {
				assert.Zero(t, counts[f.name], f.name)
			}
		}
		assert.Len(t, counts, want, "faults: %v", counts)
		assert.Len(t, slots, 5, "slots: %v", slots)
		assert.Len(t, wiped, 6, "slots wiped, and none: %v", wiped)
	}
}
