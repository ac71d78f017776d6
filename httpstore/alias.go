package httpstore

import (
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

// leaseName identifies a lease by the id that the caller gave it.
type leaseName struct {
	key string
	id  bucket.LeaseID
}

// alias is the id by which the service knows a lease that was granted by a retry
// under a new id.
type alias struct {
	id      bucket.LeaseID
	expires int64 // reading of the store's clock
}

// keepAlias is how long after its end a lease may still be settled.
const keepAlias = time.Minute

// granted records that the service granted the lease name under id.
func (s *Store) granted(name leaseName, id bucket.LeaseID, validFor time.Duration) {
	if name.id == id {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for n, a := range s.aliases { // few: each stands for an answer that was lost
		if a.expires < now {
			delete(s.aliases, n)
		}
	}
	s.aliases[name] = alias{id, now + int64(validFor+keepAlias)}
}

// wireID returns the id by which the service knows a lease.
func (s *Store) wireID(name leaseName) bucket.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.aliases[name]; ok {
		return a.id
	}
	return name.id
}

// wireIDs returns settlements with the ids by which the service knows their leases.
func (s *Store) wireIDs(done []bucket.Settlement) []bucket.Settlement {
	done = slices.Clone(done)
	for i := range done {
		done[i].ID = s.wireID(leaseName{done[i].Key, done[i].ID})
	}
	return done
}
