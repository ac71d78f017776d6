package ledger

import (
	"iter"

	"github.com/choked/choked/bucket"
)

// Snapshot is a table as it was at one instant, which is written while the table
// changes. Taking a snapshot copies no buckets: while it is open, the table encodes a
// bucket that the snapshot does not have yet before it changes the bucket.
//
// A Snapshot is used under the same lock as its table.
type Snapshot struct {
	table *Table
	now   int64
	cold  int64
	saved []byte // encodings of buckets that have changed since the last chunk
	chunk int    // bytes to encode at a time
}

// chunk is a few hundred buckets, a fraction of a millisecond of work.
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

// Close ends the snapshot, whether it was written or not. Further calls have no
// effect.
func (s *Snapshot) Close() {
	if s.table.snapshot == s {
		s.table.snapshot = nil
	}
}

// Chunks returns the encoding of the snapshot in pieces, each valid until the
// next. The loop's body may release the table's lock and take it again. After the
// last piece the snapshot is closed. Chunks can be read once.
func (s *Snapshot) Chunks() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		t := s.table
		b := appendHead(make([]byte, 0, 2*s.chunk), s.now, s.cold, len(t.buckets))
		// The iteration may or may not reach a bucket that is added or removed
		// meanwhile. Its round says whether the snapshot has it already.
		for key, e := range t.buckets {
			if e.round != t.round {
				t.buckets[key] = entry{e.Bucket, t.round}
				b = s.append(b, key, e.Bucket)
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
		yield(appendString(b, "")) // an empty key ends the table
	}
}

func (s *Snapshot) append(b []byte, key string, bkt *bucket.Bucket) []byte {
	if bkt.Idle(s.now) {
		return b
	}
	return appendBucket(appendString(b, key), bkt.State())
}

// save encodes the bucket of key for the open snapshot. It is called before the
// bucket is changed or removed.
func (t *Table) save(key string, e entry) {
	if s := t.snapshot; s != nil && e.round != t.round {
		t.buckets[key] = entry{e.Bucket, t.round}
		s.saved = s.append(s.saved, key, e.Bucket)
	}
}
