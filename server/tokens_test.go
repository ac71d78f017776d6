package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

func TestTokensAdmit(t *testing.T) {
	token, hash := NewToken()
	other, _ := NewToken()
	require.NotEqual(t, token, other)
	d := open(t, nil, "# ours", "", hash+" team-a")
	ask := func(header string) reply {
		r := get("/v1/acquire", "key", "k", "request_limit", "100/s")
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		return d.do(r)
	}
	assert.Equal(t, 200, ask("Bearer "+token).Code)
	assert.Equal(t, 200, ask("bearer  "+token).Code)
	for _, bad := range []string{"", "Bearer", "Bearer ", "Basic " + token, token, "Bearer " + other, "Bearer " + hash, "Bearer " + token[:len(token)-1], "Bearer " + token + "x"} {
		r := ask(bad)
		assert.Equal(t, 401, r.Code, "%q", bad)
		assert.Equal(t, httpapi.Unauthorized, r.code())
		assert.Equal(t, `Bearer realm="choked"`, r.Header().Get("WWW-Authenticate"))
	}
	assert.Equal(t, 200, d.do(get("/healthz")).Code, "needs none")
	for _, r := range routes {
		if r.to != anyone {
			assert.Equal(t, 401, d.do(httptest.NewRequest(r.method, r.path, nil)).Code, "%s %s", r.method, r.path)
		}
	}
}

func TestALineWithoutAnything(t *testing.T) {
	for _, line := range []string{"", " \t"} {
		assert.ErrorContains(t, CheckToken(line), "64 hexadecimal digits")
	}
}

func TestTenantsAreKeptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &listing{Store: choked.NewLocal()}
		d := open(t, store, hashToken("a")+" team-a", hashToken("b")+" team", hashToken("root")+" *")
		defer d.close()
		for _, key := range []string{"k", "-a/k", strings.Repeat("x", bucket.MaxKey), strings.Repeat("x", bucket.MaxKey-1) + "y", "team-a/k"} {
			ask := wants(1, 10)
			ask.Key, ask.MaxWait = httpapi.KeyOf(key), 0
			for _, token := range []string{"a", "b"} {
				assert.True(t, d.do(bearing(postJSON("/v1/lease", ask), token)).lease().OK, "%.20q is full for %s", key, token)
			}
			// The other one's lease bears the same id. It cannot be settled, nor
			// asked for again.
			assert.Equal(t, 200, d.do(bearing(postJSON("/v1/settle", httpapi.SettleRequest{Done: []httpapi.Settlement{{Key: ask.Key, ID: ask.ID}}}), "b")).Code)
			next := ask
			next.ID.Seq++
			assert.False(t, d.do(bearing(postJSON("/v1/lease", next), "a")).lease().OK, "%.20q of a is still out", key)
			assert.True(t, d.do(bearing(postJSON("/v1/lease", next), "b")).lease().OK, "and that of b has come back")
		}
		var st httpapi.Status
		d.do(bearing(get("/v1/status"), "a")).read(&st)
		var seen []string
		for _, k := range st.Keys {
			seen = append(seen, fmt.Sprintf("%.8s", k.Text))
		}
		assert.ElementsMatch(t, []string{"k", "-a/k", "xxxxxxxx", "xxxxxxxx", "team-a/k"}, seen)
		d.do(bearing(get("/v1/status"), "root")).read(&st)
		assert.Len(t, st.Keys, 10)

		all := wants(5, 1)
		all.Key, all.MaxWait = httpapi.KeyOf("team-a/k"), 0
		assert.False(t, d.do(bearing(postJSON("/v1/lease", all), "root")).lease().OK, "all keys, under their full names")
	})
}

// listing is a store that tells its buckets.
type listing struct {
	choked.Store
	list []bucket.Info
}

func (l *listing) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	known := false
	for _, b := range l.list {
		known = known || b.Key == a.Key
	}
	if !known {
		l.list = append(l.list, bucket.Info{Key: a.Key, Limits: a.Limits})
	}
	return l.Store.Lease(ctx, a)
}

func (l *listing) Buckets() []bucket.Info { return l.list }

func TestKeysOfTenantsNeverMeet(t *testing.T) {
	long := strings.Repeat("k", bucket.MaxKey)
	seen := make(map[string]string)
	for _, ns := range []string{"a", "a-b", "b"} {
		tenant := &tenant{namespace: ns}
		for _, key := range []string{"k", "/k", "#k", "b/k", "-b/k", "a/k", long, long[1:], long[:500] + "x", hashToken(long), "\x00", "\xff"} {
			full := tenant.key(key)
			assert.NoError(t, bucket.CheckKey(full))
			assert.Empty(t, seen[full], "%s %.40q", ns, key)
			seen[full] = ns
			name, ok := tenant.own(full)
			assert.True(t, ok)
			assert.Equal(t, min(len(key), 400), min(len(strings.TrimSuffix(name, "…")), 400))
			for _, other := range []string{"a", "a-b", "b"} {
				_, ok := belongs(other, full)
				assert.Equal(t, other == ns, ok)
			}
		}
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("old")+" a")
		defer d.close()
		status := func(token string) int {
			return d.do(bearing(get("/v1/acquire", "key", "k", "request_limit", "100/s"), token)).Code
		}
		assert.Equal(t, 200, status("old"))
		assert.Equal(t, 401, status("new"))

		d.list(hashToken("old")+" a", hashToken("new")+" a")
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"))
		assert.Equal(t, 200, status("old"))

		d.list(hashToken("new") + " a")
		time.Sleep(checkEvery)
		assert.Equal(t, 401, status("old"), "revoked, though it was good before")
		for range 20 {
			status("old")
		}
		assert.Equal(t, 429, status("old"), "and now as bad as any other")
		time.Sleep(time.Minute)

		d.list("choked_A_TOKEN_BY_MISTAKE a")
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"), "a broken file changes nothing")
		assert.Contains(t, d.logs.String(), "failed to reload tokens")
		assert.NotContains(t, d.logs.String(), "MISTAKE", "what stands for a hash may be a token")

		d.list("")
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"), "an empty one is about to be written")
		assert.Contains(t, d.logs.String(), "file is empty")

		require.NoError(t, os.Remove(d.file))
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"))
		d.list("# nobody")
		time.Sleep(checkEvery)
		assert.Equal(t, 401, status("new"))
	})
}

func TestFilesOfTokensThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	_, err := OpenTokens(file, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	hash := hashToken("t")
	for line, why := range map[string]string{
		"choked_SECRET a":            "64 hexadecimal digits",
		hash[2:] + " a":              "64 hexadecimal digits",
		hash:                         "no namespace",
		hash + " Team":               `namespace "Team"`,
		hash + " a/b":                `namespace "a/b"`,
		hash + " a asks=0":           "asks=N",
		hash + " a asks":             "asks=N",
		hash + " a rate=fast":        `rate "fast"`,
		hash + " a keys=7":           "rate=N/s",
		hash + " a\n" + hash + " b":  "line 2: same token",
		strings.Repeat("x", 100_000): "too long",
	} {
		require.NoError(t, os.WriteFile(file, []byte(line), 0o600))
		_, err := OpenTokens(file, nil)
		if assert.ErrorContains(t, err, why, "%.80q", line) {
			assert.NotContains(t, err.Error(), "SECRET")
		}
	}
	var many strings.Builder
	for i := range maxTokens + 1 {
		fmt.Fprintln(&many, hashToken(fmt.Sprint(i)), "a")
	}
	require.NoError(t, os.WriteFile(file, []byte(many.String()), 0o600))
	_, err = OpenTokens(file, nil)
	require.ErrorContains(t, err, "more than 4096")
}

func TestCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("asks")+" a asks=2", hashToken("rate")+" b rate=5/10s")
		defer d.close()
		long := func() *http.Request { return bearing(postJSON("/v1/lease", wants(1, 10)), "asks") }
		require.True(t, d.do(long()).lease().OK)
		var waiting []*spoken
		for n := range uint64(2) {
			waiting = append(waiting, d.start(bearing(postJSON("/v1/lease", wants(n+2, 10)), "asks")))
			synctest.Wait()
		}
		r := d.do(bearing(get("/v1/status"), "asks"))
		assert.Equal(t, 429, r.Code)
		assert.Equal(t, httpapi.Busy, r.code())
		assert.Equal(t, "1", r.Header().Get("Retry-After"))
		assert.Equal(t, 200, d.do(bearing(get("/v1/status"), "rate")).Code, "another's caps are another's")
		waiting[0].cancel()
		<-waiting[0].done
		assert.Equal(t, 200, d.do(bearing(get("/v1/status"), "asks")).Code)

		for range 4 {
			assert.Equal(t, 200, d.do(bearing(get("/v1/status"), "rate")).Code)
		}
		r = d.do(bearing(get("/v1/status"), "rate"))
		assert.Equal(t, 429, r.Code)
		assert.Equal(t, "2", r.Header().Get("Retry-After"))
		time.Sleep(2 * time.Second)
		assert.Equal(t, 200, d.do(bearing(get("/v1/status"), "rate")).Code)
		waiting[1].cancel()
		<-waiting[1].done
	})
}

// What waits for quota may wait for that which is settled: no cap holds that back.
func TestSettlementsAreFreeOfCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("t")+" a asks=1 rate=2/h")
		defer d.close()
		holder := wants(1, 10)
		require.True(t, d.do(bearing(postJSON("/v1/lease", holder), "t")).lease().OK)
		waiting := d.start(bearing(postJSON("/v1/lease", wants(2, 10)), "t"))
		synctest.Wait()
		require.Equal(t, 429, d.do(bearing(postJSON("/v1/lease", wants(3, 10)), "t")).Code)
		adjust := httpapi.AdjustRequest{Key: holder.Key, Limits: holder.Limits, Charge: bucket.Cost{Requests: 1}}
		assert.Equal(t, 200, d.do(bearing(postJSON("/v1/adjust", adjust), "t")).Code)
		settle := httpapi.SettleRequest{Done: []httpapi.Settlement{{Key: holder.Key, ID: holder.ID}}}
		assert.Equal(t, 200, d.do(bearing(postJSON("/v1/settle", settle), "t")).Code)
		<-waiting.done
		assert.True(t, waiting.lease().OK)
	})
}

func TestCountsOutliveTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("t")+" a rate=2/h")
		defer d.close()
		for range 2 {
			require.Equal(t, 200, d.do(bearing(get("/v1/status"), "t")).Code)
		}
		d.list("# read again", hashToken("t")+" a rate=2/h")
		time.Sleep(checkEvery)
		assert.Equal(t, 429, d.do(bearing(get("/v1/status"), "t")).Code)
	})
}

// Of ten thousand bad tokens only the first few are told that they are bad. The
// good ones of others behind the same address pass among them.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("good")+" a")
		defer d.close()
		ask := func(from, token string) reply {
			r := bearing(get("/v1/status"), token)
			r.RemoteAddr = from
			return d.do(r)
		}
		codes := make(map[int]int)
		for n := range 10_000 {
			codes[ask(fmt.Sprintf("192.0.2.1:%d", n+1), fmt.Sprintf("choked_guess%d", n)).Code]++
			if n%100 == 99 {
				assert.Equal(t, 200, ask("192.0.2.1:1", "good").Code, "after %d guesses", n+1)
			}
		}
		assert.Equal(t, map[int]int{401: 20, 429: 9_980}, codes)
		r := ask("192.0.2.1:1", "bad")
		assert.Equal(t, httpapi.Guessing, r.code())
		assert.Equal(t, "3", r.Header().Get("Retry-After"))
		assert.Equal(t, 429, ask("[::ffff:192.0.2.1]:1", "bad").Code, "the same source")
		assert.Equal(t, 401, ask("192.0.2.2:1", "bad").Code)
		time.Sleep(3 * time.Second)
		assert.Equal(t, 401, ask("192.0.2.1:1", "bad").Code)

		for n := range 30 { // a network of IPv6 is one source
			ask(fmt.Sprintf("[2001:db8::%x]:1", n+1), "bad")
		}
		assert.Equal(t, 429, ask("[2001:db8::ffff]:1", "bad").Code)
		assert.Equal(t, 401, ask("[2001:db8:0:1::1]:1", "bad").Code)
		assert.NotContains(t, d.logs.String(), "guess") // in small letters, which no id of a request has
	})
}

// A guesser with many addresses cannot fill the memory.
func TestSourcesAreForgotten(t *testing.T) {
	g := newGuards()
	now := time.Now()
	for i := range maxSources + 1000 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
		g.countUnknown(sourceOf(r), now)
	}
	assert.LessOrEqual(t, len(g.sources), maxSources)
}

// The tokens, bad ones included, are in no log and no answer.
func TestNoSecretsAnywhere(t *testing.T) {
	d := open(t, &broken{Store: choked.NewLocal(), err: fmt.Errorf("of the store")}, hashToken("UNIQUE-good")+" a")
	var said strings.Builder
	for _, token := range []string{"UNIQUE-good", "UNIQUE-bad", "UNIQUE bad"} {
		for _, route := range append(routes, route{method: "GET", path: "/nowhere"}) {
			for _, body := range []string{"", "{}", `{"key":"k","id":"1-1","limits":{"requests":"5/s"},"done":[{"key":"k","id":"1-1"}]}`} {
				r := d.do(bearing(httptest.NewRequest(route.method, route.path+"?key=k&request_limit=5/s", strings.NewReader(body)), token))
				fmt.Fprintln(&said, r.Header(), r.Body)
			}
		}
	}
	assert.Contains(t, d.logs.String(), "of the store")
	assert.NotContains(t, d.logs.String(), "UNIQUE")
	assert.NotContains(t, said.String(), "UNIQUE")
}

func belongs(namespace, key string) (string, bool) {
	return (&tenant{namespace: namespace}).own(key)
}
