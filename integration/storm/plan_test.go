//go:build linux

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func plan(seed uint64, workers int, network, disks bool) (list []round) {
	for number := range uint64(50) {
		list = append(list, newRound(seed, number, workers, network, disks))
	}
	return list
}

func TestRoundDependsOnSeedAndNumberOnly(t *testing.T) {
	assert.Equal(t, plan(1, 5, true, true), plan(1, 5, true, true))
	assert.NotEqual(t, plan(1, 5, true, true), plan(2, 5, true, true))
	assert.Equal(t, plan(1, 5, true, true)[49], newRound(1, 49, 5, true, true), "a round does not depend on earlier ones")
}

func TestAllFaultsHitAllSlots(t *testing.T) {
	for _, have := range []struct{ network, disks bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		counts, slots := make(map[string]int), make(map[int]int)
		lost := make(map[string]map[int]int) // slots, by the kind of loss
		for _, r := range plan(1, 5, have.network, have.disks) {
			assert.Len(t, r.injections, injectionsPerRound)
			if lost[r.loss.name] == nil {
				lost[r.loss.name] = make(map[int]int)
			}
			lost[r.loss.name][r.loss.slot]++
			if r.loss.name == dirCopy {
				assert.NotEqual(t, r.loss.slot, r.loss.copied)
			}
			for _, k := range r.injections {
				counts[k.name]++
				slots[k.slot]++
				assert.Contains(t, k.side, k.slot)
				assert.True(t, k.duration >= 500*time.Millisecond && k.duration < 5*time.Second, k.duration)
				assert.True(t, k.pauseAfter >= 500*time.Millisecond && k.pauseAfter < 4*time.Second, k.pauseAfter)
			}
		}
		want := 0
		for _, f := range faults {
			if injectable := (have.network || !f.network) && (have.disks || !f.disks); injectable {
				want++
			} else {
				assert.Zero(t, counts[f.name], f.name)
			}
		}
		assert.Len(t, counts, want, "faults: %v", counts)
		assert.Len(t, slots, 5, "slots: %v", slots)
		assert.Len(t, lost, 3, "a directory emptied, copied, and nothing: %v", lost)
		assert.Len(t, lost[diskLoss], 5, "slots emptied: %v", lost)
		assert.Len(t, lost[dirCopy], 5, "slots with a copy: %v", lost)
	}
}
