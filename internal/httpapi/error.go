package httpapi

import (
	"errors"
	"net/http"

	"github.com/choked/choked/bucket"
)

// Error is an answer that says why there is no other.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Failure is the body of such an answer.
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
	TooLarge     = "too_large"
	ExceedsBurst = "cost_exceeds_burst"
	InHand       = "in_hand"     // the id is being decided for another request
	Lost         = "lost"        // the ask does not wait here any more, and holds nothing
	Busy         = "busy"        // over the caps of the token; nothing was done
	NoQuorum     = "no_quorum"   // nothing can be decided
	Unavailable  = "unavailable" // nothing can be decided, for another reason
	Late         = "late"        // granted too late to be spent; nothing was done
	Closing      = "closing"     // this node stops; nothing was done
	Closed       = "closed"      // the store is closed
	Failed       = "failed"      // the store has failed, and may have done it or not
)

var statuses = map[string]int{
	BadRequest: http.StatusBadRequest, Unauthorized: http.StatusUnauthorized, Guessing: http.StatusTooManyRequests,
	NotFound: http.StatusNotFound, TooLarge: http.StatusRequestEntityTooLarge, ExceedsBurst: http.StatusBadRequest,
	InHand: http.StatusConflict, Lost: http.StatusGone, Busy: http.StatusTooManyRequests,
	NoQuorum: http.StatusServiceUnavailable, Unavailable: http.StatusServiceUnavailable, Late: http.StatusServiceUnavailable, Closing: http.StatusServiceUnavailable, Closed: http.StatusServiceUnavailable,
	Failed: http.StatusInternalServerError,
}

// Status is the HTTP status that goes with the code.
func (e *Error) Status() int { return statuses[e.Code] }

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the error of package bucket that e stands for.
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

// ErrorOf returns what a store's error is to a client.
func ErrorOf(err error) *Error {
	switch {
	case errors.Is(err, bucket.ErrCostExceedsBurst):
		return &Error{ExceedsBurst, err.Error()}
	case errors.Is(err, bucket.ErrNoQuorum):
		return &Error{NoQuorum, bucket.ErrNoQuorum.Error()}
	case errors.Is(err, bucket.ErrUnavailable):
		return &Error{Unavailable, bucket.ErrUnavailable.Error()}
	case errors.Is(err, bucket.ErrClosed):
		return &Error{Closed, "the store is closed"}
	}
	return &Error{Failed, "the store has failed; its log says why"}
}
