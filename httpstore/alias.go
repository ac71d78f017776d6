package httpstore

import (
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

// leaseOf names a lease as the caller knows it.
type leaseOf struct {
	key string
	id  bucket.LeaseID
}

// alias is the id by which the service knows a lease that was not granted at
// the first attempt.
type alias struct {
	id      bucket.LeaseID
	expires int64
}

// keepAlias is for how long after the end of a lease it may still be settled.
const keepAlias = time.Minute

// granted notes by which id a lease was granted.
func (s *Store) granted(name leaseOf, id bucket.LeaseID, validFor time.Duration) {
	if name.id == id {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for n, a := range s.aliases { // few: they come of answers that were lost
		if a.expires < now {
			delete(s.aliases, n)
		}
	}
	s.aliases[name] = alias{id, now + int64(validFor+keepAlias)}
}

// wireID is the id by which the service knows a lease.
func (s *Store) wireID(name leaseOf) bucket.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.aliases[name]; ok {
		return a.id
	}
	return name.id
}

// wireIDs are settlements as the service knows the leases.
func (s *Store) wireIDs(done []bucket.Settlement) []bucket.Settlement {
	done = slices.Clone(done)
	for i := range done {
		done[i].ID = s.wireID(leaseOf{done[i].Key, done[i].ID})
	}
	return done
}
