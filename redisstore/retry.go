package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/internal/storeerr"
)

// Pauses between two attempts of a call.
const (
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// call runs the script until Redis answers. It retries as long as Redis is in a
// state that passes, at most until ctx ends or Timeout has passed. It returns the
// last attempt that was sent, if any: after an error, Redis may still execute it.
func (s *Store) call(ctx context.Context, key string, args words) (*call, error) {
	within, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, errNoAnswer)
	defer cancel()
	var c *call
	var last error // of c
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if within.Err() != nil {
			return c, s.gaveUp(within, last)
		}
		next := &call{key: s.cfg.Prefix + key, args: args, sent: s.clock.Now(), done: make(chan struct{})}
		s.pipelines.send(next)
		if !await(within, next.done) {
			if !s.pipelines.drop(next) {
				return next, s.gaveUp(within, last)
			}
			if last == nil {
				last = next.err
			}
			return c, s.gaveUp(within, last)
		}
		if c = next; c.err == nil {
			return c, nil
		}
		if last = c.err; !passing(last) {
			return c, failure(next.key, last)
		}
		select {
		case <-time.After(pause):
		case <-within.Done():
		}
	}
}

// await waits for done, and reports whether that happened before ctx ended.
func await(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// errNoAnswer ends a call after Timeout.
var errNoAnswer = errors.New("no answer")

// gaveUp returns the error of a call whose context has ended: the caller's, or
// ErrUnavailable with the last error if it was the timeout.
func (s *Store) gaveUp(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	if cause != errNoAnswer {
		return cause
	}
	cause = fmt.Errorf("%w within %v", errNoAnswer, s.cfg.Timeout)
	if last != nil {
		cause = fmt.Errorf("%w: %w", cause, last)
	}
	return storeerr.Unavailable("redis", cause)
}

// failure returns the error of a call for key that Redis refused. A server that is out
// of memory or cannot write its file may recover, but not soon, so such a call is not
// retried.
func failure(key string, err error) error {
	if hasCode(err, "OOM", "MISCONF") {
		return storeerr.Unavailable("redis", err)
	}
	if found, ok := strings.CutPrefix(err.Error(), "FORMAT "); ok { // of the script: see load in bucket.lua
		return fmt.Errorf("redis: the hash %q has format %.20s, and this release reads %d: delete it, use another Config.Prefix, or run the release that wrote it", key, found, format)
	}
	if strings.HasPrefix(err.Error(), "redis: ") {
		return err
	}
	return fmt.Errorf("redis: %w", err)
}

// passing reports whether err is of a state that passes by itself: Redis cannot be
// reached, starts, is busy, changes its roles, or has too few replicas.
func passing(err error) bool {
	if hasCode(err, "LOADING", "BUSY", "READONLY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "max number of clients reached") {
		return true
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, redis.ErrPoolTimeout)
}

// hasCode reports whether err is a reply of Redis with one of the codes. Before
// version 7, Redis put the error of a command in a script behind "ERR Error running
// script" and the position in it.
func hasCode(err error, codes ...string) bool {
	return slices.ContainsFunc(codes, func(code string) bool {
		return redis.HasErrorPrefix(err, code) ||
			redis.HasErrorPrefix(err, "Error running script") && strings.Contains(err.Error(), ": -"+code+" ")
	})
}
