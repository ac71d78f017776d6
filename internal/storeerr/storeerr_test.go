package storeerr_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/storeerr"
)

func TestUnavailableKeepsItsCause(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	err := fmt.Errorf("lease: %w", storeerr.Unavailable("redis: no answer within 5s", fmt.Errorf("attempt: %w", dial)))
	assert.ErrorIs(t, err, bucket.ErrUnavailable)
	assert.NotErrorIs(t, err, bucket.ErrNoQuorum)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var op *net.OpError
	assert.True(t, errors.As(err, &op))
	assert.Same(t, dial, op)
	assert.EqualError(t, err, "lease: store unavailable: redis: no answer within 5s: attempt: dial tcp: i/o timeout")
	assert.EqualError(t, storeerr.Unavailable("down", nil), "store unavailable: down")
	assert.ErrorIs(t, storeerr.Unavailable("down", nil), bucket.ErrUnavailable)
}

// A timeout of a client library is not the end of the caller's context.
func TestUnavailableHidesContextErrors(t *testing.T) {
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		err := storeerr.Unavailable("down", fmt.Errorf("attempt: %w", cause))
		assert.NotErrorIs(t, err, cause)
		assert.ErrorContains(t, err, cause.Error())
	}
}

func TestURLShowsWhatWasGiven(t *testing.T) {
	for given, want := range map[string]string{
		"localhost:7980":                      "localhost:7980",
		"choked.internal:7980/x":              "choked.internal:7980/x",
		"ftp://host":                          "ftp://host",
		"http://":                             "http://",
		"http://[::1]:80/p":                   "http://[::1]:80/p",
		"redis://host:6379/zero":              "redis://host:6379/zero",
		"redis://u:SECRET@host:6379/0":        "redis://***@host:6379/0",
		"redis://u:SECRET@host:port/0":        "redis://***@***",
		"redis://u:SE@CRET@host/0":            "redis://***@host/0",
		"redis://u:SE/CRET@host/0":            "redis://***@host/0",
		"redis://u:SE?CRET@host/0":            "redis://***",
		"redis://u:SE#CRET@host/0":            "redis://***",
		"redis://:SECRET":                     "redis://***",
		"http://host/?token=SECRET":           "http://host/?***",
		"http://host/?token=SE@CRET":          "http://***",
		"http://host#SECRET":                  "http://host#***",
		"u:SECRET@host":                       "***@host",
		"u:SECRET":                            "***",
		"http:SECRET@host":                    "***@host",
		"http:SECRET":                         "***",
		"http://SECRET@ho st":                 "http://***@***",
		"SECRET":                              "***",
		"SECRET.SECRET.SECRET":                "***",
		"localhost":                           "localhost",
		"localhost/x":                         "localhost/x",
		"localhost_SECRET":                    "***",
		"127.0.0.1":                           "127.0.0.1",
		"127.0.0.1.SECRET":                    "***",
		"://x":                                "://x",
		"://":                                 "://",
		"://u:SECRET@x":                       "://***@x",
		"://:SECRET":                          "://***",
		"choked_SECRET":                       "***",
		"SECRET://host":                       "***",
		"":                                    "",
		"http://" + strings.Repeat("h", 1000): "http://" + strings.Repeat("h", 100),
	} {
		got := storeerr.URL(given)
		assert.Equal(t, want, got, given)
		assert.NotContains(t, got, "SECRET")
	}
}
