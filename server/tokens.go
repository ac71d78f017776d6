package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
)

// Tokens are the bearer tokens that a file lists. The file has a line for each:
//
//	<SHA-256 of the token in hexadecimal> <namespace> [caps]
//
// Empty lines and lines that begin with # are skipped. The hash needs no salt, since
// a token is random, and the file does not reveal the tokens.
//
// The namespace is up to 64 lower-case letters, digits, dashes or underscores. Keys
// and leases of one namespace are separate from those of another. The namespace *
// has access to all keys, under their full names.
//
// Caps bound the requests of a token to one node of the service: "asks=100" at a
// time, and "rate=500/s", in any form that bucket.ParseRate reads. Settle and adjust
// are exempt, because requests may be waiting for the quota that they return. An ask
// between two polls of its client has no request, and does not count.
type Tokens struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	checked time.Time   // when the file was last checked for changes
	info    fs.FileInfo // of the file when it was read
	list    []*tenant
}

// maxTokens bounds the lines of a file: each request is compared with all of them.
const maxTokens = 4096

// checkEvery is the shortest time between two checks of the file for changes.
const checkEvery = time.Second

// OpenTokens reads the file at path. A changed file is read again within a second.
// If that fails, or the file is empty, the tokens read before stay valid and log
// receives the error. A file that holds only a comment admits no client.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{path: path, log: log}
	if err := t.read(); err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	return t, nil
}

// NewToken returns a random token and its hash for the file of a [Tokens].
func NewToken() (token, hash string) {
	token = "choked_" + rand.Text()
	return token, hashToken(token)
}

// hashToken returns the hash of token for the file of a [Tokens].
func hashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// tenant is one line of the file, with the requests of its token.
type tenant struct {
	hash      [sha256.Size]byte
	namespace string      // "*" has access to all keys
	asks      int         // most requests at a time; 0: no cap
	rate      bucket.Rate // of requests; zero: no cap

	mu    sync.Mutex
	open  int // requests that have not ended
	calls meter
}

func (t *Tokens) read() error {
	info, err := os.Stat(t.path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(t.path)
	if err != nil {
		return err
	}
	list, err := parseTokens(b)
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	if len(t.list) > 0 && len(bytes.TrimSpace(b)) == 0 { // perhaps an editor is writing it
		return fmt.Errorf("%s: file is empty: want a line with a token, or a comment to admit no client", t.path)
	}
	for i, n := range list {
		for _, old := range t.list { // an unchanged line keeps its counts
			if old.hash == n.hash && old.namespace == n.namespace && old.asks == n.asks && old.rate == n.rate {
				list[i] = old
			}
		}
	}
	t.list, t.info = list, info
	return nil
}

// match returns the tenant of a token, or nil. Its time does not depend on how much
// of a known token a guess has right.
func (t *Tokens) match(hash [sha256.Size]byte, now time.Time) (found *tenant) {
	for _, n := range t.current(now) {
		if subtle.ConstantTimeCompare(n.hash[:], hash[:]) == 1 {
			found = n
		}
	}
	return found
}

// current returns the list, read again if the file has changed.
func (t *Tokens) current(now time.Time) []*tenant {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.checked) < checkEvery {
		return t.list
	}
	t.checked = now
	info, err := os.Stat(t.path)
	if err == nil {
		if info.ModTime().Equal(t.info.ModTime()) && info.Size() == t.info.Size() && os.SameFile(info, t.info) {
			return t.list
		}
		if err = t.read(); err == nil {
			t.log.Info("reloaded tokens", "file", t.path, "count", len(t.list))
		}
	}
	if err != nil {
		t.log.Error("failed to reload tokens, the previous ones stay valid", "error", err)
	}
	return t.list
}

var namespaceForm = regexp.MustCompile(`^([a-z0-9_-]{1,64}|\*)$`)

// checkNamespace returns why s is not a valid namespace, or nil.
func checkNamespace(s string) error {
	if !namespaceForm.MatchString(s) {
		return fmt.Errorf("namespace %.80q: want up to 64 lower-case letters, digits, dashes or underscores, or *", s)
	}
	return nil
}

// CheckToken returns why line is not a valid line of a file of tokens, or nil.
func CheckToken(line string) error {
	_, err := parseTenant(line)
	return err
}

func parseTokens(b []byte) (list []*tenant, err error) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t, err := parseTenant(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		for _, other := range list {
			if other.hash == t.hash {
				return nil, fmt.Errorf("line %d: same token as in an earlier line", n)
			}
		}
		if list = append(list, t); len(list) > maxTokens {
			return nil, fmt.Errorf("line %d: more than %d tokens", n, maxTokens)
		}
	}
	return list, lines.Err()
}

// parseTenant parses a line. Its errors do not quote the first field, which may be a
// token that was written in place of its hash.
func parseTenant(line string) (*tenant, error) {
	fields := strings.Fields(line)
	var hash []byte
	var err error
	if len(fields) > 0 {
		hash, err = hex.DecodeString(fields[0])
	}
	if err != nil || len(hash) != sha256.Size {
		return nil, fmt.Errorf("first field: want the SHA-256 of a token, %d hexadecimal digits", 2*sha256.Size)
	}
	if len(fields) < 2 {
		return nil, fmt.Errorf("no namespace after the hash: want <hash> <namespace> [caps]")
	}
	t := &tenant{hash: [sha256.Size]byte(hash), namespace: fields[1]}
	if err := checkNamespace(t.namespace); err != nil {
		return nil, err
	}
	for _, field := range fields[2:] {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "asks":
			if t.asks, err = strconv.Atoi(value); err != nil || t.asks < 1 {
				return nil, fmt.Errorf("cap %.40q: want asks=N, N at least 1", field)
			}
		case "rate":
			if t.rate, err = bucket.ParseRate(value); err != nil {
				return nil, fmt.Errorf("cap %.40q: %w", field, err)
			}
		default:
			return nil, fmt.Errorf("cap %.40q: want asks=N or rate=N/s", field)
		}
	}
	return t, nil
}

// begin counts a request of t. If the request is over t's caps, done is nil, and
// retry is how long the client should wait.
func (t *tenant) begin(now time.Time) (retry time.Duration, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asks > 0 && t.open >= t.asks {
		return time.Second, nil
	}
	if t.rate.N > 0 {
		if retry := t.calls.take(now, t.rate); retry > 0 {
			return retry, nil
		}
	}
	t.open++
	return 0, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.open--
	}
}

// allKeys reports whether t has access to all keys.
func (t *tenant) allKeys() bool { return t.namespace == "*" }

// key returns the store's name of a key of t: the namespace and the key, or if that
// is too long the namespace, the key's hash and its beginning.
func (t *tenant) key(key string) string {
	if t.allKeys() {
		return key
	}
	if full := t.namespace + "/" + key; len(full) <= bucket.MaxKey {
		return full
	}
	h := sha256.Sum256([]byte(key))
	full := t.namespace + "#" + hex.EncodeToString(h[:]) + "#" + key
	return full[:bucket.MaxKey]
}

// own returns t's name of a key of the store. ok is false if the key belongs to
// another tenant.
func (t *tenant) own(key string) (name string, ok bool) {
	if t.allKeys() {
		return key, true
	}
	if name, ok = strings.CutPrefix(key, t.namespace+"/"); ok {
		return name, true
	}
	name, ok = strings.CutPrefix(key, t.namespace+"#")
	if !ok || len(name) <= 2*sha256.Size {
		return "", false
	}
	return name[2*sha256.Size+1:] + "…", true
}

// claim rewrites the keys of settlements to the store's names of t's keys, so that
// t can settle only its own leases.
func (t *tenant) claim(done []bucket.Settlement) {
	for i := range done {
		done[i].Key = t.key(done[i].Key)
	}
}
