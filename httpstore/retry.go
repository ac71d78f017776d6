package httpstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/choked/choked/internal/httpapi"
	"github.com/choked/choked/internal/storeerr"
)

const (
	attemptTimeout = httpapi.Poll + 3*time.Second // the service answers an attempt within Poll
	minPause       = 20 * time.Millisecond        // between two attempts
	maxPause       = 500 * time.Millisecond
)

// errHTTP1 means that operations cannot share a connection.
var errHTTP1 = errors.New("httpstore: the service, or a proxy before it, speaks HTTP/1.1 only: want httpstore.Config.HTTP1, or HTTP/2 there")

// Mistakes in the scheme of Config.URL. The service has not executed the request.
var (
	errNoTLS = errors.New(`httpstore: the service speaks no TLS: want "http://" in httpstore.Config.URL`)
	errTLS   = errors.New(`httpstore: the service speaks TLS: want "https://" in httpstore.Config.URL`)
)

// retry posts a request until there is an answer, an error that is final, or one for
// which again returns false.
func (s *Store) retry(ctx context.Context, path string, request any, again func(error) bool) error {
	retries := s.retries(ctx, 0)
	for {
		err := s.post(ctx, path, request, &struct{}{})
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isFinal(err) || !again(err):
			return err
		}
		if err := retries.next(err); err != nil {
			return err
		}
	}
}

// retries paces the attempts at one operation and ends them after Timeout.
type retries struct {
	s     *Store
	ctx   context.Context
	since int64         // when the service last answered, at the earliest
	waits time.Duration // how long a healthy service may take for the next answer
	pause time.Duration
}

// retries begins the attempts at an operation that may wait at the service until an
// instant of the store's clock, or zero for one that does not wait.
func (s *Store) retries(ctx context.Context, until int64) *retries {
	now := s.clock.Now()
	waits := min(time.Duration(max(until-now, 0)), httpapi.Poll)
	return &retries{s: s, ctx: ctx, since: now, waits: waits, pause: minPause}
}

// next waits for the pause after an attempt that failed with cause. It returns nil
// if another attempt is due, and otherwise the error of the operation.
func (r *retries) next(cause error) error {
	r.since += int64(min(r.waits, r.s.clock.Since(r.since)))
	r.waits = 0
	left := r.s.cfg.Timeout - r.s.clock.Since(r.since)
	if left <= 0 {
		return storeerr.Unavailable(fmt.Sprintf("httpstore: no answer within %v", r.s.cfg.Timeout), cause)
	}
	pause := r.pause/2 + rand.N(r.pause)
	r.pause = min(2*r.pause, maxPause)
	var busy *answerError
	if errors.As(cause, &busy) {
		pause = max(pause, min(busy.retryAfter, time.Second))
	}
	timer := time.NewTimer(min(pause, left))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// answerError is an answer that reports an error.
type answerError struct {
	why        httpapi.Error // empty if the answer is not the service's, but a proxy's
	status     int
	retryAfter time.Duration
}

func (e *answerError) Error() string {
	if e.why.Code == "" {
		return fmt.Sprintf("status %d without an error of choked: is this a choked service, or did a proxy answer?", e.status)
	}
	return e.why.Advice()
}

func (e *answerError) Unwrap() error { return e.why.Unwrap() }

// isFinal reports whether a retry cannot help.
func isFinal(err error) bool {
	if errors.Is(err, errHTTP1) || errors.Is(err, errNoTLS) || errors.Is(err, errTLS) {
		return true
	}
	var e *answerError
	if !errors.As(err, &e) {
		return false
	}
	switch e.why.Code {
	case httpapi.Busy, httpapi.Closing, httpapi.Lost, httpapi.Closed:
		return false
	case "":
		return e.status < 500 || e.status == http.StatusNotImplemented
	}
	return true
}

// unclear reports whether an attempt that failed with err may have been executed.
func unclear(err error) bool {
	var e *answerError
	if errors.As(err, &e) {
		return e.why.Code != httpapi.Busy && e.why.Code != httpapi.Closing
	}
	var dial *net.OpError
	return !(errors.As(err, &dial) && dial.Op == "dial")
}

// post makes one attempt.
func (s *Store) post(ctx context.Context, path string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", s.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if s.cfg.Token != "" {
		r.Header.Set("Authorization", "Bearer "+s.cfg.Token)
	}
	response, err := s.http.Do(r)
	if err != nil {
		return explain(err)
	}
	defer response.Body.Close()
	if response.ProtoMajor == 1 && !s.cfg.HTTP1 {
		return errHTTP1
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, httpapi.MaxBody))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return answerErrorOf(response, b)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("read the answer: %w: is this a choked service?", err)
	}
	return nil
}

// explain returns the error of a request that has no answer. It recognizes services
// that speak something else than the store does, some of them only by the texts of
// package http.
func explain(err error) error {
	var noTLS tls.RecordHeaderError
	has := func(text string) bool { return strings.Contains(err.Error(), text) }
	switch {
	case has("looked like an HTTP/1.1 header"):
		return errHTTP1
	case errors.Is(err, http.ErrSchemeMismatch):
		return errNoTLS
	case has("http2: frame too large") || has("http2: client conn could not be established"):
		return fmt.Errorf("%w: is this a choked service, and without TLS?", err)
	case has("malformed HTTP response") || has("readLoopPeekFailLocked") || errors.As(err, &noTLS):
		return fmt.Errorf("%w: is this a choked service?", err)
	}
	return err
}

// answerErrorOf returns the error that a response with an error status reports.
func answerErrorOf(response *http.Response, body []byte) error {
	if bytes.HasPrefix(body, []byte("Client sent an HTTP request to an HTTPS server")) { // the text of package http
		return errTLS
	}
	e := &answerError{status: response.StatusCode}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	var failure httpapi.Failure
	if json.Unmarshal(body, &failure) == nil {
		e.why = failure.Error
	}
	if e.status == http.StatusUnauthorized || e.why.Code == httpapi.Guessing {
		return fmt.Errorf("%w: %w", ErrUnauthorized, e)
	}
	return e
}
