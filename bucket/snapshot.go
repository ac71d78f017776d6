package bucket

import "iter"

// Snapshot is a table as it was at one instant, to be written while the table
// goes on. Taking it costs nothing; from then on the table saves each bucket
// that the snapshot has not got yet before it changes it.
//
// A Snapshot is used under the same lock as its table.
type Snapshot struct {
	table *Table
	now   int64
	cold  int64
	saved []byte // of buckets that have changed since
	chunk int    // bytes to encode at a time
}

// chunk is some hundred buckets, a fraction of a millisecond.
const chunk = 16 << 10

// Snapshot returns the table as it is now, or nil while another snapshot of it
// is open.
func (t *Table) Snapshot() *Snapshot {
	if t.snapshot != nil {
		return nil
	}
	t.round++
	t.snapshot = &Snapshot{table: t, now: t.now, cold: t.cold, chunk: chunk}
	return t.snapshot
}

// Close ends the snapshot, whether it was written or not. It may be called
// twice.
func (s *Snapshot) Close() {
	if s.table.snapshot == s {
		s.table.snapshot = nil
	}
}

// Chunks returns the encoding of the snapshot in pieces, which are valid until
// the next. The loop's body may let go of the table's lock and take it again.
// After the last piece the snapshot is closed. It can be read once.
func (s *Snapshot) Chunks() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		t := s.table
		b := appendHead(make([]byte, 0, 2*s.chunk), s.now, s.cold, len(t.buckets))
		for key, bucket := range t.buckets { // one that comes or goes meanwhile is not there twice, and was saved if it had to be
			if bucket.round != t.round {
				bucket.round = t.round
				b = s.append(b, key, bucket)
			}
			if len(b) < s.chunk {
				continue
			}
			if !yield(b) {
				return
			}
			b = append(b[:0], s.saved...)
			s.saved = s.saved[:0]
		}
		s.Close()
		b = append(b, s.saved...)
		yield(appendString(b, "")) // no key: the end
	}
}

func (s *Snapshot) append(b []byte, key string, bucket *Bucket) []byte {
	if bucket.Idle(s.now) {
		return b
	}
	return appendBucket(appendString(b, key), bucket)
}

// save is called before the bucket of key changes, or goes.
func (t *Table) save(key string, b *Bucket) {
	if s := t.snapshot; s != nil && b.round != t.round {
		b.round = t.round
		s.saved = s.append(s.saved, key, b)
	}
}
