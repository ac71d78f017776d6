package providertest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
)

// RoundTrip implements [http.RoundTripper]: it answers the request without a socket,
// whatever its host. The reply arrives as over HTTP: its header first, then its body as
// the provider writes it. A goroutine runs for each call until its reply ends, or
// until its body is closed or its context ends, but at least until the call has been
// counted: at most Config.Jitter.
func (p *Provider) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	in := r.Clone(ctx)
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &pipe{header: make(http.Header), began: make(chan struct{}), cancel: cancel}
	w.grown.L = &w.mu
	stop := context.AfterFunc(r.Context(), func() { w.close(context.Cause(r.Context())) })
	go func() {
		defer stop()
		defer in.Body.Close()
		defer func() {
			switch e := recover(); {
			case e != nil && e != http.ErrAbortHandler:
				panic(e)
			case ctx.Err() != nil:
				w.finish(context.Cause(ctx))
			case e != nil: // the connection breaks
				w.finish(io.ErrUnexpectedEOF)
			default:
				w.finish(io.EOF)
			}
		}()
		p.ServeHTTP(w, in)
	}()
	select {
	case <-w.began:
		if resp := w.response(r); resp != nil {
			return resp, nil
		}
		return nil, w.failure()
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
}

// A pipe is the connection over which a provider answers a call. It buffers the
// bytes that the client has not read yet.
type pipe struct {
	header http.Header   // of the handler, until began is closed
	began  chan struct{} // closed with the first byte of the reply
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	grown  sync.Cond // unread or err has changed
	status int       // 0 until the reply has begun
	sent   http.Header
	unread bytes.Buffer
	err    error // after unread
}

// Header implements [http.ResponseWriter].
func (w *pipe) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter].
func (w *pipe) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beginLocked(status)
}

func (w *pipe) beginLocked(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
		close(w.began)
	}
}

// Write implements [http.ResponseWriter].
func (w *pipe) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.beginLocked(http.StatusOK)
	defer w.grown.Broadcast()
	return w.unread.Write(b)
}

// Flush implements [http.Flusher]. Bytes arrive when they are written.
func (w *pipe) Flush() {}

// finish ends the reply.
func (w *pipe) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	if w.status == 0 { // without a reply: the client has gone, or the connection breaks
		close(w.began)
	}
	w.grown.Broadcast()
	w.cancel(nil)
}

// close ends the reply from the client's side.
func (w *pipe) close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil || w.err == io.EOF {
		w.err = err
		w.unread.Reset()
	}
	w.grown.Broadcast()
	w.cancel(err)
}

// Read implements [io.Reader] for the reply's body.
func (w *pipe) Read(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.unread.Len() == 0 && w.err == nil {
		w.grown.Wait()
	}
	if w.unread.Len() == 0 {
		return 0, w.err
	}
	return w.unread.Read(b)
}

// Close implements [io.Closer] for the reply's body.
func (w *pipe) Close() error {
	w.close(http.ErrBodyReadAfterClose)
	return nil
}

// failure returns why the provider ended without a reply.
func (w *pipe) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return w.err
}

// response returns the reply, or nil if the provider ended without one.
func (w *pipe) response(r *http.Request) *http.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 {
		return nil
	}
	return &http.Response{
		StatusCode: w.status, Status: itoa(int64(w.status)) + " " + http.StatusText(w.status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: w, ContentLength: -1, Request: r,
	}
}
