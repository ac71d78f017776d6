package bucket

import (
	"errors"
	"fmt"
)

// Errors that stores return and callers branch on.
var (
	// ErrCostExceedsBurst means a cost is larger than a bucket can ever hold,
	// so that no wait would be long enough. The error that wraps it names both
	// numbers.
	ErrCostExceedsBurst = errors.New("choked: cost exceeds burst")

	// ErrNoQuorum means that a store cannot decide for now, because no majority
	// of it can be reached.
	ErrNoQuorum = errors.New("choked: no quorum")

	// ErrClosed means that a store or a limiter is closed.
	ErrClosed = errors.New("choked: closed")
)

// MaxKey is the longest key in bytes. A key may hold any bytes.
const MaxKey = 512

// CheckKey reports why key cannot name a bucket, or nil.
func CheckKey(key string) error {
	switch {
	case key == "":
		return errors.New("key is empty: want 1 to 512 bytes")
	case len(key) > MaxKey:
		return fmt.Errorf("key %.32q… has %d bytes: want at most %d", key, len(key), MaxKey)
	}
	return nil
}
