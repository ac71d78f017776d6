// Package storeerr forms the errors that stores over a network have in common:
// a store that cannot decide, and a URL that is shown without its secrets.
package storeerr

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/choked/choked/bucket"
)

// Unavailable returns an error that wraps [bucket.ErrUnavailable]. Its text is
// "store unavailable: why: cause", without the last part if cause is nil.
//
// [errors.Is] and [errors.As] find what cause wraps, except for the errors of
// package context: those always mean the caller's own context, and here it was a
// timeout of the store or of its client library.
func Unavailable(why string, cause error) error { return &unavailable{why, cause} }

type unavailable struct {
	why   string
	cause error
}

func (e *unavailable) Error() string {
	text := bucket.ErrUnavailable.Error() + ": " + e.why
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns only the sentinel. The cause is found by Is and As.
func (e *unavailable) Unwrap() error { return bucket.ErrUnavailable }

func (e *unavailable) Is(target error) bool {
	return target != context.Canceled && target != context.DeadlineExceeded && errors.Is(e.cause, target)
}

func (e *unavailable) As(target any) bool { return errors.As(e.cause, target) }

// hidden stands for the part of a URL that may be secret.
const hidden = "***"

var (
	scheme = regexp.MustCompile(`^[a-z]{0,10}://`)

	// location is a host, a port and a path. Without a scheme the port is required,
	// but for localhost and IPv4 addresses: another word may as well be a token.
	location = regexp.MustCompile(`^[\w.-]*(\[[0-9A-Fa-f:.%]*\])?(:[0-9]*)?(/.*)?$`)
	hostPort = regexp.MustCompile(`^([\w.-]+:[0-9]+|localhost|[0-9]{1,3}(\.[0-9]{1,3}){3})(/.*)?$`)
)

// URL returns as much of s as cannot be secret: no user information, no query and
// no fragment. Asterisks stand for these parts. It is for the texts of errors, so s
// may be anything that was given in place of a URL.
func URL(s string) string {
	if s == "" {
		return s
	}
	begin := scheme.FindString(s)
	rest := s[len(begin):]
	at, query := strings.LastIndexByte(rest, '@'), strings.IndexAny(rest, "?#")
	if query >= 0 && query < at { // a password with a question mark, or a query with an @
		return begin + hidden
	}
	var end string
	if query >= 0 {
		rest, end = rest[:query], rest[query:query+1]+hidden
	}
	if at >= 0 {
		begin, rest = begin+hidden+"@", rest[at+1:]
	}
	if begin == "" && !hostPort.MatchString(rest) || !location.MatchString(rest) {
		return begin + hidden
	}
	return fmt.Sprintf("%s%.100s%s", begin, rest, end)
}
