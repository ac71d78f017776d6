package providertest_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/providertest"
)

const (
	ms = time.Millisecond
	s  = time.Second
	m  = time.Minute
	h  = time.Hour
)

// client calls a provider without a socket.
type client struct {
	*providertest.Provider
	t        *testing.T
	provider string
	url      string // of the server
	http     *http.Client
}

func open(t *testing.T, c providertest.Config) *client {
	t.Helper()
	p, err := providertest.New(c)
	require.NoError(t, err)
	return &client{p, t, c.Provider, "http://provider.test", &http.Client{Transport: p}}
}

// answer is a reply that has been read.
type answer struct {
	status int
	header http.Header
	text   string
	err    error // of reading the body
}

// send makes a call and returns its reply, unread.
func (c *client) send(p providertest.Prompt) *http.Response {
	c.t.Helper()
	if p.Text == "" {
		p.Text = "tokens.."
	}
	r, err := providertest.NewRequest(c.t.Context(), c.provider, c.url, p)
	require.NoError(c.t, err)
	resp, err := c.http.Do(r)
	require.NoError(c.t, err)
	return resp
}

func (c *client) call(p providertest.Prompt) answer {
	c.t.Helper()
	return read(c.send(p))
}

// post sends a body of the test's own to a path.
func (c *client) post(path, body string) answer {
	c.t.Helper()
	resp, err := c.http.Post(c.url+path, "application/json", strings.NewReader(body))
	require.NoError(c.t, err)
	return read(resp)
}

func read(resp *http.Response) answer {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

// status makes a call without a maximum of tokens and returns the status.
func (c *client) status() int {
	c.t.Helper()
	return c.call(providertest.Prompt{}).status
}

// decode reads a body as JSON.
func decode[T any](t *testing.T, body string) (v T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(body), &v), "%s", body)
	return v
}

// event is a server-sent event.
type event struct{ name, data string }

// events reads a stream as a client does.
func events(t *testing.T, body string) (list []event) {
	t.Helper()
	var e event
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "":
			if e.data != "" {
				list = append(list, e)
			}
			e = event{}
		case strings.HasPrefix(line, ":"): // a comment
		case strings.HasPrefix(line, "event: "):
			e.name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			e.data = line[len("data: "):]
		default:
			assert.Fail(t, "no line of an event stream", "%q", line)
		}
	}
	assert.Empty(t, e, "an event without an empty line after it")
	return list
}

// limit returns the counters of a limit.
func (c *client) limit(name string) providertest.LimitStats {
	c.t.Helper()
	for _, l := range c.Stats().Limits {
		if l.Unit.String()+" "+l.Limit == name {
			return l
		}
	}
	require.Fail(c.t, "no such limit", "%s among %v", name, c.Stats().Limits)
	return providertest.LimitStats{}
}

// uses returns a Config.Usage of calls that all use the same tokens.
func uses(u providertest.Usage) func(providertest.Call) providertest.Usage {
	return func(providertest.Call) providertest.Usage { return u }
}

// A step is a call at a time, and whether the provider admits it.
type step struct {
	at     time.Duration
	prompt providertest.Prompt
	ok     bool
	why    string
}

// play makes the calls of a timeline in virtual time.
func (c *client) play(steps []step) {
	c.t.Helper()
	start := time.Now()
	for i, st := range steps {
		time.Sleep(time.Until(start.Add(st.at)))
		a := c.call(st.prompt)
		want := http.StatusOK
		if !st.ok {
			want = http.StatusTooManyRequests
		}
		assert.Equal(c.t, want, a.status, "step %d at %v: %s: %s", i, st.at, st.why, a.text)
	}
}

// atMost returns a prompt of two tokens with a maximum for its reply.
func atMost(tokens int64) providertest.Prompt { return providertest.Prompt{MaxTokens: tokens} }
