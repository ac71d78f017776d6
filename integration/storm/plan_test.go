//go:build linux

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func plan(seed uint64, workers int, network bool) (list []round) {
	for number := range uint64(50) {
		list = append(list, newRound(seed, number, workers, network))
	}
	return list
}

func TestRoundDependsOnSeedAndNumberOnly(t *testing.T) {
	assert.Equal(t, plan(1, 5, true), plan(1, 5, true))
	assert.NotEqual(t, plan(1, 5, true), plan(2, 5, true))
	assert.Equal(t, plan(1, 5, true)[49], newRound(1, 49, 5, true), "a round does not depend on earlier ones")
}

func TestAllFaultsHitAllSlots(t *testing.T) {
	for _, network := range []bool{true, false} {
		counts, slots, wipedSlot := make(map[string]int), make(map[int]int), make(map[int]int)
		for _, r := range plan(1, 5, network) {
			assert.Len(t, r.injections, injectionsPerRound)
			wipedSlot[r.wipedSlot]++
			for _, k := range r.injections {
				counts[k.name]++
				slots[k.slot]++
				assert.Contains(t, k.side, k.slot)
				assert.True(t, k.duration >= 500*time.Millisecond && k.duration < 5*time.Second, k.duration)
				assert.True(t, k.pauseAfter >= 500*time.Millisecond && k.pauseAfter < 4*time.Second, k.pauseAfter)
			}
		}
		want := localFaults
		if network {
			want = len(faults)
		}
		assert.Len(t, counts, want, "faults: %v", counts)
		assert.Len(t, slots, 5, "slots: %v", slots)
		assert.Len(t, wipedSlot, 6, "slots wiped, and none: %v", wipedSlot)
	}
}
