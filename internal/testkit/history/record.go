// Package history records admissions, so that the bound of a limiter can be checked
// afterwards by code that is independent of the limiter. Each worker appends one
// record per admission to its own file.
package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"github.com/choked/choked/bucket"
)

// Record is one admission. Instants are those of [Now], one clock for all processes
// of the machine. The instant of the decision is not known: it is no earlier than
// Before and no later than After.
type Record struct {
	Before, After int64         // nanoseconds
	Waited        time.Duration // since the caller was ready to go
	Cost          bucket.Cost
	Worker        uint32
	Incarnation   uint32 // number of the process of this worker
	Key           uint32 // number of the key, as the writer assigns it
}

// Size is the length of a record in a file, in bytes: its fields, then their CRC-32C,
// all little endian.
const Size = 80

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r Record) append(b []byte) []byte {
	start := len(b)
	for _, v := range [...]int64{r.Before, r.After, int64(r.Waited)} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	for u := range bucket.NumUnits {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Cost.Of(u)))
	}
	for _, v := range [...]uint32{r.Worker, r.Incarnation, r.Key} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parse reads the record at the start of b, which holds at least Size bytes.
func parse(b []byte) (Record, error) {
	if crc32.Checksum(b[:Size-4], castagnoli) != binary.LittleEndian.Uint32(b[Size-4:]) {
		return Record{}, errors.New("the checksum does not match")
	}
	u64 := func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(b[Size-16+4*i:]) }
	r := Record{
		Before: u64(0), After: u64(1), Waited: time.Duration(u64(2)),
		Worker: u32(0), Incarnation: u32(1), Key: u32(2),
	}
	for u := range bucket.NumUnits {
		r.Cost = r.Cost.With(u, u64(3+int(u)))
	}
	return r, nil
}

// Writer appends records to a file. Safe for concurrent use.
type Writer struct{ f *os.File }

// Open returns a Writer that appends to the file at path, and makes it if there
// is none.
func Open(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Writer{f}, nil
}

// Append writes r by one system call: the record is in the file whole or not at all,
// and survives a crash of the process.
func (w *Writer) Append(r Record) error {
	var b [Size]byte
	if _, err := w.f.Write(r.append(b[:0])); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// Reader reads a file that may still grow.
type Reader struct {
	path string
	f    *os.File
	read int // records read so far
	buf  []byte
}

// Follow returns a Reader of the file at path.
func Follow(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Reader{path: path, f: f}, nil
}

// Next appends to rs the records that were written since the last call, in order. A
// record that is not written in full yet is left for the next call.
func (r *Reader) Next(rs []Record) ([]Record, error) {
	for {
		const chunk = 1024 * Size
		have := len(r.buf)
		if cap(r.buf) < chunk {
			r.buf = append(make([]byte, 0, chunk), r.buf...)
		}
		n, err := r.f.Read(r.buf[have:chunk])
		r.buf = r.buf[:have+n]
		whole := 0
		for ; len(r.buf)-whole >= Size; whole += Size {
			rec, e := parse(r.buf[whole:])
			if e != nil {
				return rs, fmt.Errorf("history: %s: record %d: %w", r.path, r.read, e)
			}
			r.read++
			rs = append(rs, rec)
		}
		r.buf = r.buf[:copy(r.buf, r.buf[whole:])]
		switch {
		case err == io.EOF:
			return rs, nil
		case err != nil:
			return rs, fmt.Errorf("history: %w", err)
		}
	}
}

// Close closes the file.
func (r *Reader) Close() error { return r.f.Close() }

// Read returns all records of the file at path. An incomplete last record, as after a
// crash of the machine, is omitted.
func Read(path string) ([]Record, error) {
	r, err := Follow(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Next(nil)
}
