package bucket

import (
	"errors"
	"fmt"
)

// Errors that stores return and callers branch on. Their texts name no package
// and no key: the caller that knows the operation and the key adds both.
var (
	// ErrCostExceedsBurst means that a cost is larger than a bucket can ever hold,
	// so that no wait is long enough. The error that wraps it names both numbers.
	ErrCostExceedsBurst = errors.New("cost exceeds burst")

	// ErrUnavailable means that a store cannot decide now. It has decided nothing,
	// and the same call may succeed later. The error that wraps it keeps the cause.
	ErrUnavailable = errors.New("store unavailable")

	// ErrNoQuorum is [ErrUnavailable] because no majority of the cluster can be
	// reached.
	ErrNoQuorum = fmt.Errorf("%w: no quorum", ErrUnavailable)

	// ErrClosed means that a store or a limiter is closed.
	ErrClosed = errors.New("closed")
)

// MaxKey is the longest length of a key, in bytes. A key may contain any bytes.
const MaxKey = 512

// CheckKey returns an error that says why key cannot name a bucket, or nil: it must
// have 1 to [MaxKey] bytes.
func CheckKey(key string) error {
	switch {
	case key == "":
		return errors.New("key is empty: want 1 to 512 bytes")
	case len(key) > MaxKey:
		return fmt.Errorf("key %.32q… has %d bytes: want at most %d", key, len(key), MaxKey)
	}
	return nil
}
