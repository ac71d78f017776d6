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
		r := get("/v2/acquire", "key", "k", "request_limit", "100/s")
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
	for _, second := range []string{"Bearer " + token, "Bearer " + other, ""} {
		r := get("/v2/acquire", "key", "k", "request_limit", "100/s")
		r.Header["Authorization"] = []string{"Bearer " + token, second}
		answer := d.do(r)
		assert.Equal(t, 401, answer.Code, "a second header %q", second)
		assert.Equal(t, "2 headers Authorization: want one", answer.message())
	}
	assert.Equal(t, 200, d.do(get("/healthz")).Code, "needs no token")
	for _, r := range routes {
		if r.to != anyone {
			assert.Equal(t, 401, d.do(httptest.NewRequest(r.method, r.path, nil)).Code, "%s %s", r.method, r.path)
		}
	}
}

func TestEmptyTokenLineIsAnError(t *testing.T) {
	for _, line := range []string{"", " \t"} {
		assert.ErrorContains(t, CheckToken(line), "64 hexadecimal digits")
	}
}

func TestTenantsAreSeparate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &listingStore{Store: choked.NewLocal()}
		d := open(t, store, hashToken("a")+" team-a", hashToken("b")+" team", hashToken("root")+" *")
		defer d.close()
		for _, key := range []string{"k", "-a/k", strings.Repeat("x", bucket.MaxKey), strings.Repeat("x", bucket.MaxKey-1) + "y", "team-a/k"} {
			ask := askFor(1, 10)
			ask.Key, ask.MaxWait = httpapi.KeyOf(key), 0
			for _, token := range []string{"a", "b"} {
				assert.True(t, d.do(withToken(postJSON("/v2/lease", ask), token)).lease().OK, "%.20q is full for %s", key, token)
			}
			// The other tenant's lease has the same id. This tenant can neither settle
			// it nor get it by asking again.
			assert.Equal(t, 200, d.do(withToken(postJSON("/v2/settle", httpapi.SettleRequest{Done: []httpapi.Settlement{{Key: ask.Key, ID: ask.ID}}}), "b")).Code)
			next := ask
			next.ID.Seq++
			assert.False(t, d.do(withToken(postJSON("/v2/lease", next), "a")).lease().OK, "%.20q of tenant a is still leased", key)
			assert.True(t, d.do(withToken(postJSON("/v2/lease", next), "b")).lease().OK, "%.20q of tenant b was returned", key)
		}
		var st httpapi.Status
		d.do(withToken(get("/v2/status"), "a")).read(&st)
		var seen []string
		for _, k := range st.Keys {
			seen = append(seen, fmt.Sprintf("%.8s", k.Text))
		}
		assert.ElementsMatch(t, []string{"k", "-a/k", "xxxxxxxx", "xxxxxxxx", "team-a/k"}, seen)
		d.do(withToken(get("/v2/status"), "root")).read(&st)
		assert.Len(t, st.Keys, 10)

		all := askFor(5, 1)
		all.Key, all.MaxWait = httpapi.KeyOf("team-a/k"), 0
		assert.False(t, d.do(withToken(postJSON("/v2/lease", all), "root")).lease().OK, "namespace * uses full names")
	})
}

// listingStore lists its buckets.
type listingStore struct {
	choked.Store
	list []bucket.Info
}

func (l *listingStore) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	known := false
	for _, b := range l.list {
		known = known || b.Key == a.Key
	}
	if !known {
		l.list = append(l.list, bucket.Info{Key: a.Key, Limits: a.Limits})
	}
	return l.Store.Lease(ctx, a)
}

func (l *listingStore) Buckets() []bucket.Info { return l.list }

func TestKeysOfTenantsNeverCollide(t *testing.T) {
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

func TestChangedTokensFileIsReloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("old")+" a")
		defer d.close()
		status := func(token string) int {
			return d.do(withToken(get("/v2/acquire", "key", "k", "request_limit", "100/s"), token)).Code
		}
		assert.Equal(t, 200, status("old"))
		assert.Equal(t, 401, status("new"))

		d.writeTokens(hashToken("old")+" a", hashToken("new")+" a")
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"))
		assert.Equal(t, 200, status("old"))

		d.writeTokens(hashToken("new") + " a")
		time.Sleep(checkEvery)
		assert.Equal(t, 401, status("old"), "revoked")
		for range 20 {
			status("old")
		}
		assert.Equal(t, 429, status("old"), "a revoked token counts as unknown")
		time.Sleep(time.Minute)

		d.writeTokens("choked_A_TOKEN_BY_MISTAKE a")
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"), "a malformed file changes nothing")
		assert.Contains(t, d.logs.String(), "failed to reload tokens")
		assert.NotContains(t, d.logs.String(), "MISTAKE", "the first field may be a token")

		d.writeTokens("")
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"), "an empty file may be half written")
		assert.Contains(t, d.logs.String(), "file is empty")

		require.NoError(t, os.Remove(d.file))
		time.Sleep(checkEvery)
		assert.Equal(t, 200, status("new"))
		d.writeTokens("# nobody")
		time.Sleep(checkEvery)
		assert.Equal(t, 401, status("new"))
	})
}

func TestBadTokensFileIsAnError(t *testing.T) {
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

func TestTokenCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("asks")+" a asks=2", hashToken("rate")+" b rate=5/10s")
		defer d.close()
		long := func() *http.Request { return withToken(postJSON("/v2/lease", askFor(1, 10)), "asks") }
		require.True(t, d.do(long()).lease().OK)
		var waiting []*openRequest
		for n := range uint64(2) {
			waiting = append(waiting, d.start(withToken(postJSON("/v2/lease", askFor(n+2, 10)), "asks")))
			synctest.Wait()
		}
		r := d.do(withToken(get("/v2/status"), "asks"))
		assert.Equal(t, 429, r.Code)
		assert.Equal(t, httpapi.Busy, r.code())
		assert.Equal(t, "1", r.Header().Get("Retry-After"))
		assert.Equal(t, 200, d.do(withToken(get("/v2/status"), "rate")).Code, "each token has its own caps")
		waiting[0].cancel()
		<-waiting[0].done
		assert.Equal(t, 200, d.do(withToken(get("/v2/status"), "asks")).Code)

		for range 4 {
			assert.Equal(t, 200, d.do(withToken(get("/v2/status"), "rate")).Code)
		}
		r = d.do(withToken(get("/v2/status"), "rate"))
		assert.Equal(t, 429, r.Code)
		assert.Equal(t, "2", r.Header().Get("Retry-After"))
		time.Sleep(2 * time.Second)
		assert.Equal(t, 200, d.do(withToken(get("/v2/status"), "rate")).Code)
		waiting[1].cancel()
		<-waiting[1].done
	})
}

// A waiting request may need the quota that a settlement returns, so caps do not delay
// settlements.
func TestSettleAndAdjustAreExemptFromCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("t")+" a asks=1 rate=2/h")
		defer d.close()
		holder := askFor(1, 10)
		require.True(t, d.do(withToken(postJSON("/v2/lease", holder), "t")).lease().OK)
		waiting := d.start(withToken(postJSON("/v2/lease", askFor(2, 10)), "t"))
		synctest.Wait()
		require.Equal(t, 429, d.do(withToken(postJSON("/v2/lease", askFor(3, 10)), "t")).Code)
		adjust := httpapi.AdjustRequest{Key: holder.Key, Limits: holder.Limits, Charge: bucket.Cost{Requests: 1}}
		assert.Equal(t, 200, d.do(withToken(postJSON("/v2/adjust", adjust), "t")).Code)
		settle := httpapi.SettleRequest{Done: []httpapi.Settlement{{Key: holder.Key, ID: holder.ID}}}
		assert.Equal(t, 200, d.do(withToken(postJSON("/v2/settle", settle), "t")).Code)
		<-waiting.done
		assert.True(t, waiting.lease().OK)
	})
}

func TestCapsSurviveAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("t")+" a rate=2/h")
		defer d.close()
		for range 2 {
			require.Equal(t, 200, d.do(withToken(get("/v2/status"), "t")).Code)
		}
		d.writeTokens("# read again", hashToken("t")+" a rate=2/h")
		time.Sleep(checkEvery)
		assert.Equal(t, 429, d.do(withToken(get("/v2/status"), "t")).Code)
	})
}

// Of 10,000 unknown tokens only the first 20 get a 401. Known tokens from the same
// address are admitted all the time.
func TestGuessedTokensAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("good")+" a")
		defer d.close()
		ask := func(from, token string) reply {
			r := withToken(get("/v2/status"), token)
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

		for n := range 30 { // an IPv6 network of 64 bits is one source
			ask(fmt.Sprintf("[2001:db8::%x]:1", n+1), "bad")
		}
		assert.Equal(t, 429, ask("[2001:db8::ffff]:1", "bad").Code)
		assert.Equal(t, 401, ask("[2001:db8:0:1::1]:1", "bad").Code)
		assert.NotContains(t, d.logs.String(), "guess") // lower case, which ids of requests do not contain
	})
}

// A guesser with many addresses cannot exhaust the memory.
func TestSourcesAreBounded(t *testing.T) {
	g := newGuards()
	now := time.Now()
	for i := range maxSources + 1000 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
		g.countUnknown(sourceOf(r), now)
	}
	assert.LessOrEqual(t, len(g.sources), maxSources)
}

// Neither known nor unknown tokens appear in logs and answers.
func TestTokensAreNeverLoggedOrReturned(t *testing.T) {
	d := open(t, &failingStore{Store: choked.NewLocal(), err: fmt.Errorf("of the store")}, hashToken("UNIQUE-good")+" a")
	var said strings.Builder
	for _, token := range []string{"UNIQUE-good", "UNIQUE-bad", "UNIQUE bad"} {
		for _, route := range append(routes, route{method: "GET", path: "/nowhere"}) {
			for _, body := range []string{"", "{}", `{"key":"k","id":"1-1","limits":"requests 5/s","done":[{"key":"k","id":"1-1"}]}`} {
				r := d.do(withToken(httptest.NewRequest(route.method, route.path+"?key=k&request_limit=5/s", strings.NewReader(body)), token))
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
