package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// testServer is a server that is called without a network.
type testServer struct {
	*Server
	t     *testing.T
	store choked.Store
	file  string // of tokens
	logs  *logs
}

// logs is a log in memory.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// open returns a server over store, or over a new one if that is nil. The lines are
// its file of tokens; without lines it needs no token.
func open(t *testing.T, store choked.Store, lines ...string) *testServer {
	if store == nil {
		store = choked.NewLocal()
	}
	d := &testServer{t: t, store: store, logs: new(logs)}
	log := slog.New(slog.NewTextHandler(d.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := Config{Store: store, Logger: log}
	if len(lines) > 0 {
		d.file = filepath.Join(t.TempDir(), "tokens")
		d.writeTokens(lines...)
		tokens, err := OpenTokens(d.file, log)
		require.NoError(t, err)
		cfg.Tokens = tokens
	}
	d.Server = New(cfg)
	return d
}

// close shuts down the server and closes its store, so that no goroutine outlives a
// bubble.
func (d *testServer) close() {
	d.Shutdown(context.Background())
	d.store.Close()
}

// writeTokens writes the file of tokens.
func (d *testServer) writeTokens(lines ...string) {
	require.NoError(d.t, os.WriteFile(d.file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
}

// reply is a recorded answer.
type reply struct {
	*httptest.ResponseRecorder
	t *testing.T
}

func (d *testServer) do(r *http.Request) reply {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return reply{w, d.t}
}

func withToken(r *http.Request, token string) *http.Request {
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func get(path string, query ...string) *http.Request {
	v := url.Values{}
	for i := 0; i < len(query); i += 2 {
		v.Set(query[i], query[i+1])
	}
	return httptest.NewRequest("GET", path+"?"+v.Encode(), nil)
}

func post(path, body string) *http.Request {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func postJSON(path string, v any) *http.Request {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return post(path, string(b))
}

func (r reply) read(v any) {
	require.NoError(r.t, json.Unmarshal(r.Body.Bytes(), v), r.Body.String())
}

func (r reply) code() string {
	var f httpapi.Failure
	r.read(&f)
	return f.Error.Code
}

func (r reply) message() string {
	var f httpapi.Failure
	r.read(&f)
	return f.Error.Message
}

func (r reply) lease() (l httpapi.Lease) {
	require.Equal(r.t, 200, r.Code, r.Body.String())
	r.read(&l)
	return l
}

func TestOpenAPIListsEveryRoute(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			Security  *[]any
			Responses map[string]any
		}
	}
	d := open(t, nil)
	d.do(get("/openapi.json")).read(&doc)
	listed := 0
	for _, methods := range doc.Paths {
		listed += len(methods)
	}
	for _, r := range routes {
		op, ok := doc.Paths[r.path][strings.ToLower(r.method)]
		assert.True(t, ok, "%s %s", r.method, r.path)
		assert.Equal(t, r.to == anyone, op.Security != nil, "%s %s needs no token", r.method, r.path)
		assert.Contains(t, op.Responses, "200")
		if r.to != anyone && r.path != "/v2/status" {
			assert.Contains(t, op.Responses, "500", "%s %s asks the store", r.method, r.path)
		}
	}
	assert.Equal(t, len(routes), listed)
}

func TestOpenAPIReferencesResolve(t *testing.T) {
	var doc map[string]any
	require.NoError(t, json.Unmarshal(openapi, &doc))
	var walk func(v any)
	refs := 0
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if name, ok := v["$ref"].(string); ok {
				refs++
				var at any = doc
				for part := range strings.SplitSeq(strings.TrimPrefix(name, "#/"), "/") {
					at = at.(map[string]any)[part]
				}
				assert.NotNil(t, at, name)
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(doc)
	assert.Greater(t, refs, 20)
}

func TestOpenAPIDocumentsEveryErrorCode(t *testing.T) {
	var doc struct {
		Components struct {
			Responses map[string]struct{ Description string }
		}
	}
	require.NoError(t, json.Unmarshal(openapi, &doc))
	for _, code := range []string{
		httpapi.BadRequest, httpapi.Unauthorized, httpapi.Guessing, httpapi.TooLarge, httpapi.ExceedsBurst, httpapi.InProgress, httpapi.Lost,
		httpapi.Busy, httpapi.NoQuorum, httpapi.Unavailable, httpapi.Late, httpapi.Closing, httpapi.Closed, httpapi.Failed,
	} {
		status := (&httpapi.Error{Code: code}).Status()
		assert.Regexp(t, `(^|[.;] )`+code+`: `, doc.Components.Responses[strconv.Itoa(status)].Description, "code %s, status %d", code, status)
	}
}

func TestRequestIDs(t *testing.T) {
	d := open(t, nil)
	r := get("/healthz")
	r.Header.Set("X-Request-Id", "their-own.1")
	assert.Equal(t, "their-own.1", d.do(r).Header().Get("X-Request-Id"))
	for _, bad := range []string{"", "with space", "\x1b[31m", strings.Repeat("x", 65)} {
		r.Header.Set("X-Request-Id", bad)
		id := d.do(r).Header().Get("X-Request-Id")
		assert.Regexp(t, `^[A-Z0-9]{16}$`, id, "instead of %q", bad)
	}
	failed := d.do(get("/v2/acquire"))
	var f httpapi.Failure
	failed.read(&f)
	assert.Equal(t, failed.Header().Get("X-Request-Id"), f.RequestID)
}

func TestUnknownRouteIs404(t *testing.T) {
	d := open(t, nil)
	r := d.do(get("/lease"))
	assert.Equal(t, 404, r.Code)
	assert.Equal(t, httpapi.NotFound, r.code())
	r = d.do(get("/v2/lease"))
	assert.Equal(t, 405, r.Code)
	assert.Equal(t, "POST", r.Header().Get("Allow"))
	assert.Equal(t, httpapi.NotFound, r.code())
	r = d.do(httptest.NewRequest("PUT", "/v2/acquire", nil))
	assert.Equal(t, "GET, POST", r.Header().Get("Allow"))
	assert.Equal(t, `method "PUT" of /v2/acquire: want GET or POST`, r.message())
}

// A client does not expect HEAD to have an effect.
func TestHeadSpendsNothing(t *testing.T) {
	d := open(t, nil)
	for _, path := range []string{"/v2/acquire?key=k&request_limit=1/h", "/choked/acquire?key=k&request_capacity=1&request_refill_rate=1"} {
		r := d.do(httptest.NewRequest("HEAD", path, nil))
		assert.Equal(t, 405, r.Code, path)
		assert.Contains(t, r.Header().Get("Allow"), "GET")
	}
	assert.Equal(t, 200, d.do(get("/v2/acquire", "key", "k", "request_limit", "1/h", "wait", "0")).Code)
	assert.Equal(t, 200, d.do(httptest.NewRequest("HEAD", "/readyz", nil)).Code, "some load balancers probe with HEAD")
}

func TestReadiness(t *testing.T) {
	missing := errors.New("no cluster yet, of the secret cluster")
	s := New(Config{Store: choked.NewLocal(), Ready: func() error { return missing }})
	d := &testServer{Server: s, t: t}
	assert.Equal(t, 200, d.do(get("/healthz")).Code)
	r := d.do(get("/readyz"))
	assert.Equal(t, 503, r.Code)
	assert.NotContains(t, r.Body.String(), "secret", "the reason is for clients with a token")
	assert.Equal(t, httpapi.Unavailable, r.code())
	var st httpapi.Status
	d.do(get("/v2/status")).read(&st)
	assert.Equal(t, missing.Error(), st.Missing)
	missing = nil
	assert.Equal(t, 200, d.do(get("/readyz")).Code)
	s.MarkNotReady()
	r = d.do(get("/readyz"))
	assert.Equal(t, 503, r.Code)
	assert.Equal(t, httpapi.Closing, r.code())
	d.do(get("/v2/status")).read(&st)
	assert.Equal(t, "shutting down", st.Missing)
	assert.Equal(t, 200, d.do(get("/v2/acquire", "key", "k", "request_limit", "5/s")).Code, "requests are still served")
	s.Drain()
	assert.Equal(t, 503, d.do(get("/readyz")).Code)
	r = d.do(get("/v2/acquire", "key", "k", "request_limit", "5/s"))
	assert.Equal(t, 503, r.Code)
	assert.Equal(t, httpapi.Closing, r.code())
	assert.Equal(t, "1", r.Header().Get("Retry-After"))
}

// A service that misses voters is ready and says so to anyone, without names; the
// names are for tokens of the namespace *.
func TestDegradedServiceIsReady(t *testing.T) {
	d := open(t, nil, hashToken("a")+" team-a", hashToken("root")+" *")
	d.cfg.Ready = func() error { return nil }
	r := d.do(get("/readyz"))
	assert.Equal(t, 200, r.Code)
	assert.JSONEq(t, `{}`, r.Body.String())
	cluster := Cluster{
		Node: "n1", Leader: "n1", Members: []Member{{ID: "1", Name: "n1", Addr: "10.0.0.1:7946"}}, Voters: 3,
		Gone: []Gone{{ID: "2", Name: "n2", For: time.Minute}}, Degraded: "1 of 3 voters gone", NoQuorum: true,
	}
	d.cfg.Cluster = func() Cluster { return cluster }
	r = d.do(get("/readyz"))
	assert.Equal(t, 200, r.Code)
	assert.JSONEq(t, `{"degraded":"1 of 3 voters gone"}`, r.Body.String())
	d.cfg.Ready = func() error { return errors.New("no leader, n2 is gone") }
	r = d.do(get("/readyz"))
	assert.Equal(t, 503, r.Code)
	assert.Contains(t, r.Body.String(), `"not ready: 1 of 3 voters gone"`)
	d.cfg.Ready = func() error { return nil }

	ask := func(token string) (st httpapi.Status, body string) {
		r := get("/v2/status")
		r.Header.Set("Authorization", "Bearer "+token)
		answer := d.do(r)
		answer.read(&st)
		return st, answer.Body.String()
	}
	st, _ := ask("root")
	assert.Equal(t, cluster, st.Cluster)
	st, body := ask("a")
	assert.Equal(t, Cluster{Voters: 3, Degraded: "1 of 3 voters gone", NoQuorum: true, Hidden: "nodes are listed for tokens of the namespace * only"}, st.Cluster)
	assert.NotContains(t, body, "n1")
	assert.NotContains(t, body, "n2")
}

// A supervisor restarts a process whose /healthz fails.
func TestHealthzFailsWhenTheNodeHasSteppedOut(t *testing.T) {
	var fault error
	d := &testServer{Server: New(Config{Store: choked.NewLocal(), Healthy: func() error { return fault }, Ready: func() error { return errors.New("no leader") }}), t: t}
	assert.Equal(t, 200, d.do(get("/healthz")).Code, "a node that is not ready is healthy")
	fault = errors.New("disk failed, of secret-host")
	r := d.do(get("/healthz"))
	assert.Equal(t, 503, r.Code)
	assert.Equal(t, httpapi.Unavailable, r.code())
	assert.NotContains(t, r.Body.String(), "secret")
}

// The fields of a status are those that the description lists.
func TestStatusIsDescribed(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas struct {
				Status struct {
					Properties map[string]struct {
						Items struct{ Properties map[string]any }
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(openapi, &doc))
	described := doc.Components.Schemas.Status.Properties
	fields := func(v any) (names []string) {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				names = append(names, name)
			}
		}
		return names
	}
	assert.ElementsMatch(t, fields(httpapi.Status{}), slices.Collect(maps.Keys(described)))
	assert.ElementsMatch(t, fields(Member{}), slices.Collect(maps.Keys(described["members"].Items.Properties)))
	assert.ElementsMatch(t, fields(Gone{}), slices.Collect(maps.Keys(described["gone"].Items.Properties)))
	assert.ElementsMatch(t, fields(httpapi.KeyInfo{}), slices.Collect(maps.Keys(described["keys"].Items.Properties)))
}

func TestBadRequestNamesTheCause(t *testing.T) {
	d := open(t, nil)
	const id = `"id":"1-1"`
	for body, why := range map[string]string{
		``:                      "EOF",
		`{`:                     "unexpected EOF",
		`[]`:                    "cannot unmarshal",
		`{"key":"k","limit":1}`: `unknown field "limit"`,
		`{"key":"k",` + id + `,"limits":"requests 5/s","limits":"requests 500/s"}`:                  `member "limits" is there twice`,
		`{"key":"k",` + id + `,"limits":"requests 5/s","Limits":"requests 500/s"}`:                  `member "Limits" is there twice`,
		`{"key":"k",` + id + `,"limits":"requests 5/s"} {}`:                                         "more than one",
		`{"key":"k","id":"1","limits":"requests 5/s"}`:                                              "lease id",
		`{"key":"k","id":7,"limits":"requests 5/s"}`:                                                "cannot unmarshal",
		`{` + id + `,"limits":"requests 5/s"}`:                                                      "key is empty",
		`{"key":"` + strings.Repeat("k", 513) + `",` + id + `,"limits":"requests 5/s"}`:             "513 bytes",
		`{"key":"k","key_base64":"aw==",` + id + `,"limits":"requests 5/s"}`:                        "both key",
		`{"key":"k` + "\xff" + `",` + id + `,"limits":"requests 5/s"}`:                              "UTF-8",
		`{"key":"k",` + id + `}`:                                                                    "no limits",
		`{"key":"k",` + id + `,"limits":"requests fast"}`:                                           `rate "fast"`,
		`{"key":"k",` + id + `,"limits":{"requests":"5/s"}}`:                                        `limits "{\"requests\":\"5/s\"}": want a string such as "requests 50/s; tokens 100000/m"`,
		`{"key":"k",` + id + `,"limits":7}`:                                                         "want a string",
		`{"key":"k",` + id + `,"limits":"requests 5/s","need":{"requests":-1}}`:                     "cost of -1",
		`{"key":"k",` + id + `,"limits":"requests 5/s","done":[{"id":"1-1"}]}`:                      "key is empty",
		`{"key":"k",` + id + `,"limits":"requests 5/s","done":[{"key":"k","spent":{"tokens":-1}}]}`: "-1 tokens",
	} {
		r := d.do(post("/v2/lease", body))
		assert.Equal(t, 400, r.Code, body)
		assert.Equal(t, httpapi.BadRequest, r.code(), body)
		assert.Contains(t, r.message(), why, body)
	}
	r := d.do(post("/v2/lease", `{"key":"k",`+id+`,"limits":"requests 123/s","need":{"requests":777}}`))
	assert.Equal(t, 400, r.Code)
	assert.Equal(t, httpapi.ExceedsBurst, r.code())
	assert.Contains(t, r.message(), "777")
	assert.Contains(t, r.message(), "123")
	assert.Equal(t, 400, d.do(post("/v2/settle", `{"done":[{"key":"","id":"1-1"}]}`)).Code)
	assert.Equal(t, 400, d.do(post("/v2/adjust", `{"key":"k","limits":"requests 5/s","empty_ns":-1}`)).Code)
	large := d.do(post("/v2/settle", `{"done":[`+strings.Repeat(" ", httpapi.MaxBody)+`]}`))
	assert.Equal(t, 413, large.Code)
	assert.Equal(t, httpapi.TooLarge, large.code())
}

// The error code of a cost above the burst does not depend on its size.
func TestHugeCostExceedsTheBurst(t *testing.T) {
	const huge = "9999999999000" // max_tokens 9,999,999,999, n 1,000: above bucket.MaxUnits
	form := func(cost string) *http.Request {
		r := post("/v2/acquire", "key=k&request_limit=5/s&token_limit=10/s"+cost)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	}
	acquire := func(cost string) *http.Request {
		return post("/v2/acquire", `{"key":"k","limits":"requests 5/s; tokens 10/s","cost":`+cost+`}`)
	}
	lease := func(need, want string) *http.Request {
		return post("/v2/lease", `{"key":"k","id":"1-1","limits":"requests 5/s; tokens 10/s","need":`+need+`,"want":`+want+`}`)
	}
	python := func(requests, tokens string) *http.Request {
		return get("/choked/acquire", "key", "k", "request_capacity", "5", "request_refill_rate", "5", "token_capacity", "10", "token_refill_rate", "10",
			"requests_needed", requests, "tokens_needed", tokens)
	}
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
		code   string // "" with status 200
		why    string
	}{
		{"query", get("/v2/acquire", "key", "k", "request_limit", "5/s", "token_limit", "10/s", "tokens", huge), 400, httpapi.ExceedsBurst, huge + " tokens asked, at most 10"},
		{"form, requests", form("&requests=" + huge), 400, httpapi.ExceedsBurst, huge + " requests asked, at most 5"},
		{"JSON", acquire(`{"tokens":` + huge + `}`), 400, httpapi.ExceedsBurst, huge + " tokens asked, at most 10"},
		{"Python", python("1", huge), 400, httpapi.ExceedsBurst, huge + " tokens asked, at most 10"},
		{"lease", lease(`{"tokens":`+huge+`}`, `{"tokens":`+huge+`}`), 400, httpapi.ExceedsBurst, huge + " tokens asked, at most 10"},
		{"one more than can be counted", acquire(`{"tokens":1000000000001}`), 400, httpapi.ExceedsBurst, "1000000000001 tokens"},

		{"negative, query", get("/v2/acquire", "key", "k", "request_limit", "5/s", "tokens", "-1"), 400, httpapi.BadRequest, `tokens of "-1": want a whole number from 0`},
		{"negative, JSON", acquire(`{"requests":-1,"tokens":` + huge + `}`), 400, httpapi.BadRequest, "-1 requests"},
		{"negative, Python", python("-1", "0"), 400, httpapi.BadRequest, "-1 requests"},
		{"negative, lease", lease(`{"requests":-1,"tokens":`+huge+`}`, `{}`), 400, httpapi.BadRequest, "-1 requests"},
		{"limits are wrong as well", post("/v2/lease", `{"key":"k","id":"1-1","limits":"","need":{"tokens":`+huge+`}}`), 400, httpapi.BadRequest, "no limits"},

		{"a unit that is not limited", get("/v2/acquire", "key", "k", "request_limit", "5/s", "tokens", huge), 200, "", ""},
		{"nothing is limited", get("/choked/acquire", "key", "k", "tokens_needed", huge), 200, "", ""},
		{"a charge has a bound", post("/v2/adjust", `{"key":"k","limits":"requests 5/s","charge":{"tokens":`+huge+`}}`), 400, httpapi.BadRequest, "want 0 to 1000000000000 tokens"},
		{"a settlement has a bound", post("/v2/settle", `{"done":[{"key":"k","id":"1-1","spent":{"tokens":`+huge+`}}]}`), 400, httpapi.BadRequest, "want 0 to 1000000000000 tokens"},
	} {
		r := open(t, nil).do(c.r)
		require.Equal(t, c.status, r.Code, "%s: %s", c.name, r.Body)
		if c.code != "" {
			assert.Equal(t, c.code, r.code(), c.name)
			assert.Contains(t, r.message(), c.why, c.name)
		}
	}
}

// The bound keeps one request from many thousand operations at the store, and from as
// many log lines.
func TestSettlementsInARequestAreBounded(t *testing.T) {
	errs := make([]error, httpapi.MaxSettlements)
	for i := range errs {
		errs[i] = fmt.Errorf("lease %d: the disk is on fire", i)
	}
	d := open(t, &failingStore{Store: choked.NewLocal(), err: errors.Join(errs...)})
	settle := func(n int) reply {
		done := make([]httpapi.Settlement, n)
		for i := range done {
			done[i].Key = httpapi.KeyOf("k")
		}
		lease := askFor(1, 1)
		lease.Done = done
		r := d.do(postJSON("/v2/settle", httpapi.SettleRequest{Done: done}))
		assert.Equal(t, r.Code, d.do(postJSON("/v2/lease", lease)).Code, "the same bound for the settlements of a lease")
		return r
	}
	assert.Equal(t, 500, settle(httpapi.MaxSettlements).Code, "the store is asked")
	assert.Contains(t, d.logs.String(), "lease 0: the disk is on fire")
	assert.Less(t, len(d.logs.String()), 5000)
	r := settle(httpapi.MaxSettlements + 1)
	assert.Equal(t, 400, r.Code)
	assert.Equal(t, "1025 settlements in a request: want at most 1024", r.message())

	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties struct{ Done struct{ MaxItems int } }
			}
		}
	}
	require.NoError(t, json.Unmarshal(openapi, &doc))
	for _, name := range []string{"LeaseRequest", "SettleRequest"} {
		assert.Equal(t, httpapi.MaxSettlements, doc.Components.Schemas[name].Properties.Done.MaxItems, name)
	}
}

// failingStore fails at each operation.
type failingStore struct {
	choked.Store
	err   error
	panic bool
}

func (b *failingStore) Lease(context.Context, bucket.Ask) (bucket.Lease, error) {
	return bucket.Lease{}, b.fail()
}
func (b *failingStore) Settle(context.Context, []bucket.Settlement) error { return b.fail() }
func (b *failingStore) Adjust(context.Context, bucket.Adjustment) error   { return b.fail() }

func (b *failingStore) fail() error {
	if b.panic {
		panic("out of order")
	}
	return b.err
}

func TestStoreErrors(t *testing.T) {
	store := &failingStore{Store: choked.NewLocal()}
	d := open(t, store)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{fmt.Errorf("lease: %w: the leader at 10.0.0.7", bucket.ErrNoQuorum), 503, httpapi.NoQuorum},
		{fmt.Errorf("lease: %w: redis at 10.0.0.7", bucket.ErrUnavailable), 503, httpapi.Unavailable},
		{bucket.ErrClosed, 503, httpapi.Closed},
		{errors.New("disk of 10.0.0.7 is on fire"), 500, httpapi.Failed},
	} {
		store.err = c.err
		for _, r := range []*http.Request{
			get("/v2/acquire", "key", "k", "request_limit", "5/s"),
			post("/v2/lease", `{"key":"k","id":"1-1","limits":"requests 5/s"}`),
			post("/v2/settle", `{"done":[{"key":"k","id":"1-1"}]}`),
			post("/v2/adjust", `{"key":"k","limits":"requests 5/s"}`),
		} {
			a := d.do(r)
			assert.Equal(t, c.status, a.Code, "%s: %v", r.URL.Path, c.err)
			assert.Equal(t, c.code, a.code())
			assert.NotContains(t, a.Body.String(), "10.0.0.7", "addresses are only logged")
		}
	}
	assert.Contains(t, d.logs.String(), "disk of 10.0.0.7 is on fire")

	store.panic = true
	a := d.do(post("/v2/settle", `{"done":[{"key":"k","id":"1-1"}]}`))
	assert.Equal(t, 500, a.Code)
	assert.Contains(t, d.logs.String(), "out of order")
}

func TestHostileNamesAreHarmlessInLogs(t *testing.T) {
	d := open(t, nil)
	r := get("/")
	r.URL.Path = "/\x1b[2J\nlevel=ERROR msg=forged\x00"
	d.do(r)
	d.do(get("/v2/acquire", "key", "k\n\x1b[2J<script>", "request_limit", "5/s"))
	assert.NotContains(t, d.logs.String(), "\x1b")
	assert.NotContains(t, d.logs.String(), "\nlevel=ERROR")
}

func TestLeaseSettleAdjust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		body := `{"key":"k","id":"%s","limits":"requests 100/h burst 10; tokens 1000/h burst 500",
			"defined_ns":1,"need":{"requests":%d},"want":{"requests":8,"tokens":100}%s}`
		r := d.do(post("/v2/lease", fmt.Sprintf(body, "ffffffffffffffff-18446744073709551615", 1, "")))
		l := r.lease()
		assert.True(t, l.OK)
		assert.Equal(t, bucket.Cost{Requests: 8, Tokens: 100}, l.Granted)
		assert.Equal(t, bucket.LeaseID{Holder: 1<<64 - 1, Seq: 1<<64 - 1}, bucket.LeaseID(l.ID))
		assert.Greater(t, l.ValidFor, time.Second)
		assert.Equal(t, `"requests";q=100;w=3600;choked-burst=10, "tokens";q=1000;w=3600;choked-burst=500`, r.Header().Get("RateLimit-Policy"))
		assert.Equal(t, `"requests";r=2;t=36, "tokens";r=400;t=4`, r.Header().Get("RateLimit"))

		r = d.do(post("/v2/lease", fmt.Sprintf(body, "1-2", 3, "")))
		assert.False(t, r.lease().OK)
		assert.Equal(t, "37", r.Header().Get("Retry-After"))

		r = d.do(post("/v2/lease", fmt.Sprintf(body, "1-3", 7, `,"done":[{"key":"k","id":"ffffffffffffffff-18446744073709551615","spent":{"requests":3}}]`)))
		assert.True(t, r.lease().OK, "7 of 10 are left after 3 were spent")
		assert.Equal(t, 200, d.do(post("/v2/settle", `{"done":[{"key":"k","id":"1-3","spent":{"requests":7}}]}`)).Code)
		at := d.do(post("/v2/lease", fmt.Sprintf(body, "1-4", 0, ""))).lease().At
		assert.Equal(t, 200, d.do(post("/v2/adjust", fmt.Sprintf(`{"key":"k","limits":"requests 100/h burst 10; tokens 1000/h burst 500",
			"return":{"requests":4},"since_ns":%d,"charge":{"requests":1}}`, at))).Code)
		assert.True(t, d.do(post("/v2/lease", fmt.Sprintf(body, "1-5", 3, ""))).lease().OK)
		assert.False(t, d.do(post("/v2/lease", fmt.Sprintf(body, "1-6", 1, ""))).lease().OK)
	})
}

func TestAcquire(t *testing.T) {
	for name, request := range map[string]func(requests string) *http.Request{
		"by query": func(n string) *http.Request {
			return get("/v2/acquire", "key", "k", "request_limit", "10/s", "requests", n, "wait", "0")
		},
		"by form": func(n string) *http.Request {
			r := post("/v2/acquire", "key=k&request_limit=10/s&wait=0&requests="+n)
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
			return r
		},
		"by JSON": func(n string) *http.Request {
			return post("/v2/acquire", `{"key":"k","limits":"requests 10/s","cost":{"requests":`+n+`},"wait_ns":0}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, nil)
				defer d.close()
				r := d.do(request("8"))
				require.Equal(t, 200, r.Code, r.Body)
				assert.Equal(t, `"requests";q=10;w=1`, r.Header().Get("RateLimit-Policy"))
				assert.Equal(t, `"requests";r=2;t=0`, r.Header().Get("RateLimit"))
				synctest.Wait() // the settlement follows the answer
				r = d.do(request("7"))
				assert.Equal(t, 429, r.Code)
				assert.Equal(t, "1", r.Header().Get("Retry-After"))
				var a httpapi.Acquired
				r.read(&a)
				assert.False(t, a.OK)
				assert.Equal(t, 500*time.Millisecond, a.RetryAfter)
				time.Sleep(a.RetryAfter)
				assert.Equal(t, 200, d.do(request("7")).Code)
				assert.Equal(t, 400, d.do(request("11")).Code, "more than the burst")
				assert.Equal(t, 400, d.do(request("-1")).Code)
				assert.Equal(t, 400, d.do(request("x")).Code)
			})
		})
	}
}

// A cost that leaves out a unit has the same default in each form: 1 request, 0 tokens.
func TestAcquireCostDefaults(t *testing.T) {
	for _, c := range []struct{ form, json, level string }{
		{"", `{"key":"k",LIMITS}`, `{"requests":9,"tokens":100}`},
		{"", `{"key":"k",LIMITS,"cost":null}`, `{"requests":9,"tokens":100}`},
		{"", `{"key":"k",LIMITS,"cost":{}}`, `{"requests":9,"tokens":100}`},
		{"&tokens=30", `{"key":"k",LIMITS,"cost":{"tokens":30}}`, `{"requests":9,"tokens":70}`},
		{"&tokens=30&requests=0", `{"key":"k",LIMITS,"cost":{"tokens":30,"requests":0}}`, `{"requests":10,"tokens":70}`},
		{"&requests=4", `{"key":"k",LIMITS,"cost":{"requests":4}}`, `{"requests":6,"tokens":100}`},
	} {
		form := post("/v2/acquire", "key=k&request_limit=10/h&token_limit=100/h"+c.form)
		form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, r := range []*http.Request{form, post("/v2/acquire", strings.ReplaceAll(c.json, "LIMITS", `"limits":"requests 10/h; tokens 100/h"`))} {
			a := open(t, nil).do(r)
			assert.Equal(t, 200, a.Code)
			assert.Contains(t, a.Body.String(), `"level":`+c.level, c.json)
		}
	}

	var doc struct {
		Components struct {
			Schemas struct {
				AcquireRequest struct {
					Properties struct {
						Cost struct {
							Properties map[string]struct{ Default any }
						}
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(openapi, &doc))
	cost := doc.Components.Schemas.AcquireRequest.Properties.Cost.Properties
	assert.EqualValues(t, 1, cost["requests"].Default)
	assert.EqualValues(t, 0, cost["tokens"].Default)
}

func TestAcquireWaitsInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		began := time.Now()
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		for i, n := range []string{"10", "10", "1"} {
			all.Go(func() {
				r := d.do(get("/v2/acquire", "key", "k", "request_limit", "10/s", "requests", n))
				mu.Lock()
				defer mu.Unlock()
				order = append(order, fmt.Sprintf("%d: %d after %v", i+1, r.Code, time.Since(began).Round(50*time.Millisecond)))
			})
			synctest.Wait()
		}
		all.Wait()
		assert.Equal(t, []string{"1: 200 after 0s", "2: 200 after 1s", "3: 200 after 1.1s"}, order)
	})
}

// The level of an unlimited unit would be a number that many languages cannot
// represent.
func TestLevelOmitsUnlimitedUnits(t *testing.T) {
	d := open(t, &listingStore{Store: choked.NewLocal()})
	tokens := askFor(1, 1)
	tokens.Key, tokens.Limits, tokens.Need, tokens.Want = httpapi.KeyOf("t"), httpapi.Limits(choked.MustLimits("tokens 10/h")), bucket.Cost{}, bucket.Cost{Tokens: 3}
	for _, c := range []struct {
		r    *http.Request
		want string
	}{
		{get("/v2/acquire", "key", "k", "request_limit", "10/h"), `"level":{"requests":9}`},
		{get("/v2/acquire", "key", "k2", "request_limit", "10/h", "requests", "10"), `"level":{"requests":0}`},
		{get("/choked/acquire", "key", "k", "tokens_needed", "5"), `"level":{}`},
		{postJSON("/v2/lease", tokens), `"level":{"tokens":7}`},
	} {
		assert.Contains(t, d.do(c.r).Body.String(), c.want, c.r.URL)
	}
}

// A lease that expires before it can be spent is returned, and the client gets an error
// of its own for it.
func TestAcquireReturnsAnExpiredLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &expiredStore{choked.NewLocal()}
		d := open(t, store)
		defer d.close()
		r := d.do(get("/v2/acquire", "key", "k", "request_limit", "10/h", "requests", "10"))
		assert.Equal(t, 503, r.Code)
		assert.Equal(t, httpapi.Late, r.code())
		assert.Equal(t, "1", r.Header().Get("Retry-After"))
		synctest.Wait()
		l, err := store.Store.Lease(t.Context(), bucket.Ask{Key: "k", Limits: choked.MustLimits("requests 10/h"), Need: bucket.Cost{Requests: 10}})
		require.NoError(t, err)
		assert.True(t, l.OK, "the expired lease was returned")
	})
}

// expiredStore grants leases that have expired on arrival.
type expiredStore struct{ choked.Store }

func (s *expiredStore) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	l, err := s.Store.Lease(ctx, a)
	l.ValidFor = 0
	return l, err
}

func TestAcquireOfADisconnectedClientSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		d.do(get("/v2/acquire", "key", "k", "request_limit", "10/s", "requests", "10"))
		ctx, cancel := context.WithCancel(t.Context())
		var gone sync.WaitGroup
		gone.Go(func() {
			d.do(get("/v2/acquire", "key", "k", "request_limit", "10/s", "requests", "10").WithContext(ctx))
		})
		time.Sleep(990 * time.Millisecond) // by now it may hold a lease of quota that is promised ahead
		cancel()
		gone.Wait()
		time.Sleep(10 * time.Millisecond)
		assert.Equal(t, 200, d.do(get("/v2/acquire", "key", "k", "request_limit", "10/s", "requests", "10", "wait", "0")).Code)
	})
}

func TestBadAcquireNamesTheCause(t *testing.T) {
	d := open(t, nil)
	for query, why := range map[string]string{
		"":                                      "no limits",
		"request_limit=5/s":                     "key is empty",
		"key=k":                                 "no limits",
		"key=k&request_limit=5":                 `rate "5"`,
		"key=k&request_limit=5/s&requests=many": "want a whole number",
		"key=k&request_limit=5/s&wait=long":     "want up to 10m0s",
		"key=k&request_limit=5/s&wait=1h":       "want 0 to 10m0s",
		"key=k&request_limit=5/s&wait=-1":       "want up to 10m0s",
		"key=k&request_limit=5/s&wait=NaN":      "want up to 10m0s",
		"key=k&request_limits=5/s":              `parameter "request_limits"`,
		"key=k&request_limit=5/s&token=1":       `parameter "token"`,
		"key=k&key=l&request_limit=5/s":         "given twice",
		// To ignore these parameters would lift the limit.
		"key=k&request_limit=5/s&token_limit=1/m%&tokens=5000": `invalid URL escape "%"`,
		"key=k&request_limit=5/s&requests=5%zz":                `invalid URL escape "%zz"`,
		"key=k&request_limit=5/s;token_limit=1/m":              "semicolon",
	} {
		form := post("/v2/acquire", query)
		form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, r := range []reply{d.do(httptest.NewRequest("GET", "/v2/acquire?"+query, nil)), d.do(form)} {
			assert.Equal(t, 400, r.Code, query)
			assert.Contains(t, r.message(), why, query)
		}
	}
	assert.Equal(t, 200, d.do(get("/v2/acquire", "key", "k", "request_limit", "5/s", "wait", "0.5")).Code)

	untold := post("/v2/acquire", ` {"key":"k","limits":"requests 5/s"}`)
	untold.Header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl -d does
	r := d.do(untold)
	assert.Equal(t, 400, r.Code)
	assert.Contains(t, r.message(), "Content-Type: application/json")
}

// acquireStep is a call to /choked/acquire.
type acquireStep struct {
	after            time.Duration // since the call before it
	requests, tokens string
	status           int
}

// The first four rows are the steps of the Python package's own tests of its bucket. A
// refused call consumes nothing, so the calls after it are decided as if without it.
func TestChokedAcquireNeverWaits(t *testing.T) {
	for _, c := range []struct {
		name                                                   string
		requestCapacity, requestRate, tokenCapacity, tokenRate string
		steps                                                  []acquireStep
	}{
		{"limits requests", "3", "1.0", "0", "0.0", []acquireStep{
			{0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 429}, {0, "1", "0", 429},
		}},
		{"partial refill", "1", "1.0", "0", "0.0", []acquireStep{
			{0, "1", "0", 200}, {0, "1", "0", 429}, {time.Second, "1", "0", 200},
		}},
		{"full refill", "5", "1.0", "0", "0.0", []acquireStep{
			{0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 429},
			{5 * time.Second, "1", "0", 200},
		}},
		{"both units", "5", "1.0", "10", "1.0", []acquireStep{
			{0, "1", "5", 200}, {0, "1", "5", 200}, {0, "1", "1", 429}, // no tokens are left
			{0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 200}, // the refusal took no request
			{0, "1", "0", 429},
		}},
		{"refill that the store promises ahead", "3", "3.0", "0", "0.0", []acquireStep{
			{0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 200}, {0, "1", "0", 429}, {0, "1", "0", 429},
			{334 * time.Millisecond, "1", "0", 200}, {0, "1", "0", 429},
		}},
		{"refill within a millisecond", "1000", "1000.0", "0", "0.0", []acquireStep{
			{0, "1000", "0", 200}, {0, "1", "0", 429}, {time.Millisecond, "1", "0", 200},
		}},
		{"a part of the cost is there", "3", "3.0", "0", "0.0", []acquireStep{
			{0, "2", "0", 200}, {0, "2", "0", 429}, {0, "1", "0", 200},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, nil)
				defer d.close()
				for i, step := range c.steps {
					time.Sleep(step.after)
					began := time.Now()
					r := d.do(get("/choked/acquire", "key", "tb", "request_capacity", c.requestCapacity, "request_refill_rate", c.requestRate,
						"token_capacity", c.tokenCapacity, "token_refill_rate", c.tokenRate, "requests_needed", step.requests, "tokens_needed", step.tokens))
					assert.Equal(t, step.status, r.Code, "step %d: %s", i+1, r.Body)
					assert.Less(t, time.Since(began), rounding, "step %d waited", i+1)
					if r.Code == 429 {
						assert.Equal(t, "1", r.Header().Get("Retry-After"), "step %d", i+1)
						var a httpapi.Acquired
						r.read(&a)
						assert.False(t, a.OK)
						assert.Positive(t, a.RetryAfter)
						continue // without a wait: a refused call leaves no settlement behind
					}
					synctest.Wait() // the settlement of a 200 follows the answer
				}
			})
		})
	}
}

// The level in a refusal does not count the lease that was returned.
func TestChokedAcquireRefusalReportsTheLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		ask := func(n string) reply {
			return d.do(get("/choked/acquire", "key", "k", "request_capacity", "5", "request_refill_rate", "5", "requests_needed", n))
		}
		require.Equal(t, 200, ask("3").Code)
		synctest.Wait()
		r := ask("3")
		require.Equal(t, 429, r.Code)
		var a httpapi.Acquired
		r.read(&a)
		assert.Equal(t, int64(2), a.Level.Requests)
		assert.Equal(t, 200*time.Millisecond, a.RetryAfter)
		time.Sleep(a.RetryAfter)
		assert.Equal(t, 200, ask("3").Code)
	})
}

func TestChokedAcquireOfBothUnits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("t")+" a")
		defer d.close()
		ask := func(needed, tokens string) reply {
			return d.do(withToken(get("/choked/acquire", "key", "openai_chat", "request_capacity", "50", "request_refill_rate", "50.0",
				"token_capacity", "100000", "token_refill_rate", "1666.6666666666667", "requests_needed", needed, "tokens_needed", tokens), "t"))
		}
		assert.Equal(t, 200, ask("50", "40000").Code)
		synctest.Wait()
		assert.Equal(t, 429, ask("1", "100").Code, "available in 20 ms only")
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, 200, ask("1", "100").Code)
		synctest.Wait()
		r := ask("40", "100")
		assert.Equal(t, 429, r.Code, "at once")
		assert.Equal(t, "1", r.Header().Get("Retry-After"))
		time.Sleep(time.Second)
		assert.Equal(t, 200, ask("1", "60000").Code)
		synctest.Wait()
		assert.Equal(t, 429, ask("1", "60000").Code)
		assert.Equal(t, 400, ask("51", "1").Code, "more than the capacity")
		assert.Equal(t, 400, ask("1", "1.5").Code)

		none := get("/choked/acquire", "key", "k", "request_capacity", "0", "request_refill_rate", "0.0",
			"token_capacity", "0", "token_refill_rate", "0.0", "requests_needed", "9", "tokens_needed", "9")
		assert.Equal(t, 200, d.do(withToken(none, "t")).Code, "nothing is limited")
		none.Header.Del("Authorization")
		assert.Equal(t, 401, d.do(none).Code)
	})
}

func TestBadChokedAcquireNamesTheCause(t *testing.T) {
	d := open(t, nil, hashToken("t")+" a")
	for query, why := range map[string]string{
		"request_capacity=5&request_refill_rate=5":         "key is empty",
		"key=k&request_capacity=5":                         "request_refill_rate of 0",
		"key=k&request_capacity=5&request_refill_rate=Inf": "want a number from 0",
		"key=k&request_capacity=-5&request_refill_rate=5":  "want a number from 0",
		"key=k&token_capacity=0.5&token_refill_rate=1":     "burst of 0",
		"key=k&token_capacity=1&token_refill_rate=1e-12":   "want",
		"key=k&token_capacity=1&token_refill_rate=1e11":    "want",
		"key=k&max_tokens=5":                               `parameter "max_tokens"`,
		"key=k&request_capacity=5&request_refill_rate=1&token_capacity=10%&token_refill_rate=1&tokens_needed=5000": `invalid URL escape "%"`,
	} {
		r := d.do(withToken(httptest.NewRequest("GET", "/choked/acquire?"+query, nil), "t"))
		assert.Equal(t, 400, r.Code, query)
		assert.Contains(t, r.message(), why, query)
	}
	assert.Equal(t, 401, d.do(get("/choked/acquire", "key", "k")).Code)
}

func TestRateOfRecoversTheDeclaredRate(t *testing.T) {
	for perSecond, want := range map[float64]string{
		50: "50/s", 100000.0 / 60: "100000/m", 1.0 / 60: "1/m", 7.0 / 60: "7/m", 10000.0 / 86400: "10000/d", 1.0 / 3600: "1/h", 2.5: "150/m",
	} {
		r := rateOf(perSecond, 1)
		r.Burst = r.N
		assert.Equal(t, want, r.String(), "%v a second", perSecond)
	}
	for _, perSecond := range []float64{0.1234567, 3.14159265, 1e-6, 1e8 / 7} {
		r := rateOf(perSecond, 1)
		got := float64(r.N) / r.Per.Seconds()
		assert.LessOrEqual(t, got, perSecond*(1+1e-9), "above the declared rate")
		assert.Greater(t, got, perSecond*(1-1e-4))
	}
}

func TestShutdownTwice(t *testing.T) {
	d := open(t, nil)
	require.NoError(t, d.Shutdown(t.Context()))
	require.NoError(t, d.Shutdown(t.Context()))
	_, err := io.ReadAll(d.do(get("/healthz")).Body)
	require.NoError(t, err)
}
