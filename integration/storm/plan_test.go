//go:build linux

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func plan(seed uint64, workers int, network bool) (list []round) {
	for number := range uint64(50) {
		list = append(list, draw(seed, number, workers, network))
	}
	return list
}

func TestTheSeedDecidesWhatComesWhen(t *testing.T) {
	assert.Equal(t, plan(1, 5, true), plan(1, 5, true))
	assert.NotEqual(t, plan(1, 5, true), plan(2, 5, true))
	assert.Equal(t, plan(1, 5, true)[49], draw(1, 49, 5, true), "no round depends on those before")
}

func TestAllFaultsComeAndBefallAll(t *testing.T) {
	for _, network := range []bool{true, false} {
		counts, slots, wiped := make(map[string]int), make(map[int]int), make(map[int]int)
		for _, r := range plan(1, 5, network) {
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
		want := local
		if network {
			want = len(faults)
		}
		assert.Len(t, counts, want, "faults: %v", counts)
		assert.Len(t, slots, 5, "slots: %v", slots)
		assert.Len(t, wiped, 6, "slots wiped, and none: %v", wiped)
	}
}
