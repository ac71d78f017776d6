package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/choked/choked/internal/httpapi"
)

func (s *Server) writeJSON(w *answer, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // the types of package httpapi can be marshalled
		panic(err)
	}
	s.write(w, status, append(b, '\n'))
}

func (s *Server) write(w *answer, status int, body []byte) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
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
