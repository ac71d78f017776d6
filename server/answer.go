package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

func (s *Server) writeJSON(w *answer, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // of types that have no such error
		panic(err)
	}
	s.write(w, status, append(b, '\n'))
}

func (s *Server) write(w *answer, status int, body []byte) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeWithin))
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

func (s *Server) fail(w *answer, e *httpapi.Error) {
	if e.Status() == http.StatusServiceUnavailable {
		setRetryAfter(w.Header(), time.Second)
	}
	s.failWith(w, e.Status(), e)
}

func (s *Server) failWith(w *answer, status int, e *httpapi.Error) {
	s.writeJSON(w, status, httpapi.Failure{Error: *e, RequestID: w.id})
}

// setRetryAfter says when to come again, in whole seconds, rounded up.
func setRetryAfter(h http.Header, d time.Duration) {
	h.Set("Retry-After", seconds(d))
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((max(d, 0)+time.Second-1)/time.Second), 10)
}

// setRateLimit tells the limits of a key and what it holds, by the fields that
// draft-ietf-httpapi-ratelimit-headers defines. A unit with several rates has a
// policy for each; what is left is by the tightest of them, and told for the
// first.
func setRateLimit(h http.Header, limits bucket.Limits, level bucket.Cost) {
	var policies, left []string
	for u := range bucket.Tokens + 1 {
		for i, r := range limits.Of(u) {
			name := u.String()
			if i > 0 {
				name += "-" + strconv.Itoa(i+1)
			}
			policies = append(policies, fmt.Sprintf("%q;q=%d;w=%s", name, r.Burst, seconds(r.Span(r.Burst))))
			if i == 0 {
				n := max(level.Of(u), 0)
				left = append(left, fmt.Sprintf("%q;r=%d;t=%s", name, n, seconds(r.Span(r.Burst-level.Of(u)))))
			}
		}
	}
	h.Set("RateLimit-Policy", strings.Join(policies, ", "))
	h.Set("RateLimit", strings.Join(left, ", "))
}
