package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func (s askState) String() string {
	return [...]string{"waiting", "parked", "decided", "answered", "withdrawn"}[s]
}

func (e askEvent) String() string {
	return [...]string{"decide", "poll", "resume", "take", "withdraw"}[e]
}

func (f askEffects) String() string {
	var names []string
	for i, name := range []string{"wake", "startTimer", "stopTimer", "cancelCall", "forget", "refund", "refuse"} {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// Each event in each state.
func TestTransition(t *testing.T) {
	const none = askEffects(0)
	table := map[askState]map[askEvent]struct {
		to      askState
		effects askEffects
	}{
		waiting: {
			onDecide:   {decided, wake},
			onPoll:     {parked, startTimer},
			onResume:   {waiting, refuse}, // another request waits for it
			onTake:     {waiting, refuse}, // the store has not decided
			onWithdraw: {withdrawn, wake | stopTimer | cancelCall | forget},
		},
		parked: {
			onDecide:   {decided, wake},
			onPoll:     {parked, none},
			onResume:   {waiting, stopTimer},
			onTake:     {parked, refuse},
			onWithdraw: {withdrawn, wake | stopTimer | cancelCall | forget},
		},
		decided: {
			onDecide:   {decided, none},
			onPoll:     {decided, none}, // the request takes the answer instead
			onResume:   {decided, stopTimer},
			onTake:     {answered, stopTimer | forget},
			onWithdraw: {withdrawn, stopTimer | forget | refund},
		},
		answered: {
			onDecide:   {answered, none},
			onPoll:     {answered, none},
			onResume:   {answered, refuse},
			onTake:     {answered, refuse}, // another request was first
			onWithdraw: {answered, none},   // the client has the lease, and settles it
		},
		withdrawn: {
			onDecide:   {withdrawn, refund}, // granted before the store noticed the cancellation
			onPoll:     {withdrawn, none},
			onResume:   {withdrawn, refuse},
			onTake:     {withdrawn, refuse},
			onWithdraw: {withdrawn, none},
		},
	}
	for s := waiting; s <= withdrawn; s++ {
		for e := onDecide; e <= onWithdraw; e++ {
			want, listed := table[s][e]
			assert.True(t, listed, "%v, %v", s, e)
			to, effects := transition(s, e)
			assert.Equal(t, fmt.Sprint(want.to, ": ", want.effects), fmt.Sprint(to, ": ", effects), "%v, %v", s, e)
		}
	}
}

// In every sequence of events in which the store grants once, the lease is taken
// or refunded at most once, and exactly once by the end; the request is woken
// once, the id is freed once, and the call to the store is cancelled at most once.
func TestEverySequenceOfEventsEndsAnAskOnce(t *testing.T) {
	const length = 7
	var walk func(s askState, path []askEvent, did map[askEffects]int, taken int)
	sequences := 0
	walk = func(s askState, path []askEvent, did map[askEffects]int, taken int) {
		sequences++
		name := fmt.Sprint(path)
		decidedAt := did[0]
		assert.LessOrEqual(t, did[wake], 1, name)
		assert.LessOrEqual(t, did[forget], 1, name)
		assert.LessOrEqual(t, did[cancelCall], 1, name)
		assert.LessOrEqual(t, taken+did[refund], 1, name)
		switch s {
		case waiting, parked:
			assert.Zero(t, taken+did[refund]+did[wake]+did[forget]+decidedAt, name)
		case decided:
			assert.Zero(t, taken+did[refund]+did[forget], name)
		case answered:
			assert.Equal(t, 1, taken, name)
			assert.Equal(t, 1, did[forget], name)
		case withdrawn:
			assert.Equal(t, decidedAt, did[refund], "%s: refunded once it is granted", name)
			assert.Equal(t, 1, did[forget], name)
		}
		if len(path) == length || t.Failed() {
			return
		}
		for e := onDecide; e <= onWithdraw; e++ {
			if e == onDecide && decidedAt > 0 {
				continue // the store answers once
			}
			to, effects := transition(s, e)
			next := map[askEffects]int{}
			for k, v := range did {
				next[k] = v
			}
			for f := wake; f <= refuse; f <<= 1 {
				if effects&f != 0 {
					next[f]++
				}
			}
			if e == onDecide {
				next[0]++
			}
			took := taken
			if e == onTake && effects&refuse == 0 {
				took++
			}
			walk(to, append(path[:len(path):len(path)], e), next, took)
		}
	}
	walk(waiting, nil, map[askEffects]int{}, 0)
	assert.Greater(t, sequences, 5000)
}
