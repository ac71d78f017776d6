// Package fold bounds how often an event that repeats is logged: once a minute, with
// the number of repeats.
package fold

import (
	"sync"
	"time"
)

const (
	every   = time.Minute // between two reports of one event
	maxKeys = 512         // events that are remembered
)

// Events remembers which events were reported when. The zero value is ready for use.
// Safe for concurrent use.
type Events struct {
	mu   sync.Mutex
	seen map[string]*event
}

// event is an event that was reported within the last minute.
type event struct {
	reported time.Time
	repeats  int // since then
}

// Report reports whether to log the event with this key now: the first time, and once
// a minute while it repeats. repeated is the number of times that it was not logged
// since the last report. Above maxKeys events at a time, those that do not fit share
// one key.
func (e *Events) Report(key string) (repeated int, report bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.seen == nil {
		e.seen = make(map[string]*event)
	}
	if e.seen[key] == nil && len(e.seen) >= maxKeys {
		e.forget(now)
	}
	if e.seen[key] == nil && len(e.seen) >= maxKeys {
		key = ""
	}
	before := e.seen[key]
	if before != nil && now.Sub(before.reported) < every {
		before.repeats++
		return 0, false
	}
	if before != nil {
		repeated = before.repeats
	}
	e.seen[key] = &event{reported: now}
	return repeated, true
}

// forget forgets the events that were not repeated within the last minute.
func (e *Events) forget(now time.Time) {
	for key, ev := range e.seen {
		if now.Sub(ev.reported) >= every {
			delete(e.seen, key)
		}
	}
}
