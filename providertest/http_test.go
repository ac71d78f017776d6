package providertest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/providertest"
)

// serve opens a provider behind a real server.
func serve(t *testing.T, config providertest.Config) *client {
	t.Helper()
	c := open(t, config)
	server := httptest.NewServer(c.Provider)
	t.Cleanup(server.Close)
	c.url, c.http = server.URL, server.Client()
	return c
}

func TestEveryProviderServesHTTP(t *testing.T) {
	for _, name := range providertest.Names() {
		t.Run(name, func(t *testing.T) {
			for _, p := range []providertest.Prompt{atMost(200), {MaxTokens: 200, Stream: true}} {
				config := providertest.Config{Provider: name}
				real, direct := serve(t, config).call(p), open(t, config).call(p)
				assert.Equal(t, http.StatusOK, real.status)
				assert.NoError(t, real.err)
				assert.Equal(t, len(direct.text), len(real.text), "as without a socket:\n%s\n%s", direct.text, real.text)
				for _, header := range []string{"Date", "Content-Length"} { // of the server
					real.header.Del(header)
				}
				for name := range real.header {
					if strings.HasSuffix(name, "-Reset") { // an instant
						real.header.Del(name)
						direct.header.Del(name)
					}
				}
				assert.Equal(t, direct.header, real.header)
			}
		})
	}
}

func TestRefusalsOverHTTP(t *testing.T) {
	c := serve(t, providertest.Config{Provider: providertest.Generic, Requests: "20/h", Jitter: 5 * ms})
	var wg sync.WaitGroup
	var admitted, refused atomic.Int64
	for range 60 {
		wg.Go(func() {
			switch a := c.call(atMost(1)); a.status {
			case http.StatusOK:
				admitted.Add(1)
			case http.StatusTooManyRequests:
				refused.Add(1)
				assert.NotEmpty(t, a.header.Get("Retry-After-Ms"))
			}
		})
	}
	wg.Wait()
	assert.Equal(t, []int64{20, 40}, []int64{admitted.Load(), refused.Load()})
}

// The parts of a stream arrive while the provider still produces.
func TestStreamOverHTTPArrivesInParts(t *testing.T) {
	c := serve(t, providertest.Config{Provider: providertest.Anthropic, Output: "1000/h", Speed: 1, Usage: uses(providertest.Usage{Output: 40})})
	resp := c.send(providertest.Prompt{Stream: true}) // its first token takes twenty seconds
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "event: message_start\n", line)
	resp.Body.Close()
}

func TestStreamOverHTTPClosedEarly(t *testing.T) {
	c := serve(t, providertest.Config{Provider: providertest.DeepSeek, InFlight: "1", Speed: 1})
	resp := c.send(providertest.Prompt{Stream: true})
	assert.Equal(t, http.StatusTooManyRequests, c.status(), "a call is in flight")
	resp.Body.Close()
	assert.Eventually(t, func() bool {
		resp := c.send(providertest.Prompt{Stream: true})
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 10*time.Second, ms, "the server notices that the client has gone")
}

func TestFailuresOverHTTP(t *testing.T) {
	c := serve(t, providertest.Config{Provider: providertest.OpenAI})
	for _, stream := range []bool{false, true} {
		c.FailNext(1, providertest.CutInReply)
		a := c.call(providertest.Prompt{Stream: stream})
		assert.Equal(t, http.StatusOK, a.status)
		assert.ErrorIs(t, a.err, io.ErrUnexpectedEOF)
		assert.NotEmpty(t, a.text)
	}
	c.FailNext(1, providertest.Overloaded)
	assert.Equal(t, http.StatusServiceUnavailable, c.status())

	c.FailNext(1, providertest.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
	defer cancel()
	r, err := providertest.NewRequest(ctx, providertest.OpenAI, c.url, providertest.Prompt{Text: "hello"})
	require.NoError(t, err)
	_, err = c.http.Do(r)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// unread is a request body that fails.
type unread struct{ closed atomic.Bool }

func (u *unread) Read([]byte) (int, error) { return 0, errors.New("the disk is full") }
func (u *unread) Close() error             { u.closed.Store(true); return nil }

func TestRoundTripClosesTheRequest(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.Generic})
	body := new(unread)
	r, err := http.NewRequest(http.MethodPost, c.url, body)
	require.NoError(t, err)
	resp, err := c.RoundTrip(r)
	require.NoError(t, err)
	a := read(resp)
	assert.Equal(t, http.StatusBadRequest, a.status)
	assert.Contains(t, a.text, "the disk is full")
	assert.Eventually(t, body.closed.Load, 10*time.Second, ms)

	r.Body = nil
	resp, err = c.RoundTrip(r)
	require.NoError(t, err)
	assert.Equal(t, http.StatusBadRequest, read(resp).status, "no body")
}
