package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/choked/choked/bucket"
)

// Error is the reason why the service refuses a request or fails at it.
type Error struct {
	Code    string `json:"code"`    // one of the constants below, for programs
	Message string `json:"message"` // for people
}

// Failure is the body of an answer with an [Error].
type Failure struct {
	Error     Error  `json:"error"`
	RequestID string `json:"request_id,omitempty"`
}

// Codes of errors.
const (
	BadRequest   = "bad_request"
	Unauthorized = "unauthorized"
	Guessing     = "too_many_bad_tokens"
	NotFound     = "not_found"
	OtherVersion = "other_version" // the service has another version of this API
	TooLarge     = "too_large"
	ExceedsBurst = "cost_exceeds_burst"
	InProgress   = "in_progress" // another request waits for the same lease
	Lost         = "lost"        // the ask is not pending on this node, and holds no lease
	Busy         = "busy"        // the token is over its caps; the request had no effect
	NoQuorum     = "no_quorum"   // the store is unavailable: no majority of its cluster can be reached
	Unavailable  = "unavailable" // the store is unavailable for another reason
	Late         = "late"        // the lease of an acquire expired unspent; the request had no effect
	Closing      = "closing"     // this node is shutting down; the request had no effect
	Closed       = "closed"      // the store is closed
	Failed       = "failed"      // the store failed; the request may have had its effect or not
)

var statuses = map[string]int{
	BadRequest: http.StatusBadRequest, Unauthorized: http.StatusUnauthorized, Guessing: http.StatusTooManyRequests,
	NotFound: http.StatusNotFound, OtherVersion: http.StatusGone, TooLarge: http.StatusRequestEntityTooLarge, ExceedsBurst: http.StatusBadRequest,
	InProgress: http.StatusConflict, Lost: http.StatusGone, Busy: http.StatusTooManyRequests,
	NoQuorum: http.StatusServiceUnavailable, Unavailable: http.StatusServiceUnavailable, Late: http.StatusServiceUnavailable, Closing: http.StatusServiceUnavailable, Closed: http.StatusServiceUnavailable,
	Failed: http.StatusInternalServerError,
}

// Status returns the HTTP status of the code.
func (e *Error) Status() int { return statuses[e.Code] }

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Advice returns the message of e for the people at a client of this version. A service
// without the path of a call has another version of the API, or is older than versions.
func (e *Error) Advice() string {
	if e.Code == NotFound || e.Code == OtherVersion {
		return fmt.Sprintf("the service does not have %s of the API: use choked of one version for client and service: %.200s", Version, e.Message)
	}
	return e.Message
}

// Unwrap returns the error of package bucket that the code stands for, or nil.
func (e *Error) Unwrap() error {
	switch e.Code {
	case ExceedsBurst:
		return bucket.ErrCostExceedsBurst
	case NoQuorum:
		return bucket.ErrNoQuorum
	case Unavailable:
		return bucket.ErrUnavailable
	}
	return nil
}

// ErrorOf returns the answer to a client for an error of a store. Its message holds
// no text of the store's but for costs and limits, which the client has sent itself.
func ErrorOf(err error) *Error {
	switch {
	case errors.Is(err, bucket.ErrCostExceedsBurst):
		return &Error{ExceedsBurst, err.Error()}
	case errors.Is(err, bucket.ErrNoQuorum):
		return &Error{NoQuorum, bucket.ErrNoQuorum.Error()}
	case errors.Is(err, bucket.ErrUnavailable):
		return &Error{Unavailable, bucket.ErrUnavailable.Error()}
	case errors.Is(err, bucket.ErrClosed):
		return &Error{Closed, "store closed"}
	}
	return &Error{Failed, "store failed: the service has logged the cause"}
}
