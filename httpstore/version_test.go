package httpstore

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/oldservice"
)

// The answers in testdata/v1 were given by a service of version 1 of the API to
// requests of version 2.
func TestServiceOfVersion1IsRefused(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	old := oldservice.Handler(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		old.ServeHTTP(w, r)
	}))
	defer service.Close()
	s, err := Open(Config{URL: service.URL, HTTP1: true})
	require.NoError(t, err)
	defer s.Close()
	for call, do := range map[string]func() error{
		"lease":  func() error { _, err := s.Lease(t.Context(), ask(1, 1, 0)); return err },
		"settle": func() error { return s.Settle(t.Context(), []bucket.Settlement{{Key: "k"}}) },
		"adjust": func() error {
			return s.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: ask(1, 1, 0).Limits})
		},
	} {
		before := requests.Load()
		err := do()
		assert.EqualError(t, err, `the service does not have /v2 of the API: use choked of one version for client and service: path "/v2/`+call+`": no such route, see /openapi.json`)
		assert.NotErrorIs(t, err, bucket.ErrUnavailable, "a retry cannot help")
		assert.Equal(t, before+1, requests.Load(), call)
	}
}
