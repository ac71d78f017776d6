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

// Tokens are the bearer tokens that admit, as a file lists them. The file has
// a line for each:
//
//	<SHA-256 of the token in hexadecimal> <namespace> [caps]
//
// Empty lines and those that begin with # are skipped. A token is random, so
// its hash needs no salt, and who reads the file cannot use it.
//
// The namespace, up to 64 lower-case letters, digits, dashes or underscores,
// keeps the keys and leases of its tokens apart from those of others. The
// namespace * is all keys there are, under their full names.
//
// Caps bound what the token may ask of one node of the service: "asks=100"
// requests at a time, and "rate=500/s", of calls, in any form that a rate has. To
// settle and to adjust is free, for what waits may wait for that. An ask whose
// client is to come back for the answer stays in line for some seconds without a
// request, and is not counted then.
type Tokens struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	looked time.Time
	info   fs.FileInfo // of the file when it was read
	list   []*tenant
}

// maxTokens bounds the file, for each request is compared with all of it.
const maxTokens = 4096

// lookEvery is how often the file is looked at for changes, at most.
const lookEvery = time.Second

// OpenTokens reads the file at path. It is read again when it has changed; if
// that fails, or nothing is left in it, log is told and what was read before
// stays. A file with a comment only admits nobody.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{path: path, log: log}
	if err := t.read(); err != nil {
		return nil, fmt.Errorf("choked: tokens: %w", err)
	}
	return t, nil
}

// NewToken returns a random token and the hash by which a file lists it.
func NewToken() (token, hash string) {
	token = "choked_" + rand.Text()
	return token, HashToken(token)
}

// HashToken returns the hash by which a file lists token.
func HashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// tenant is a line of the file.
type tenant struct {
	hash      [sha256.Size]byte
	namespace string // "*": all keys
	asks      int    // at a time; 0: any number
	rate      bucket.Rate

	mu    sync.Mutex
	now   int // asks
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
	if len(t.list) > 0 && len(bytes.TrimSpace(b)) == 0 { // an editor is about to write it
		return fmt.Errorf("%s: it is empty: want a line of comment at least, if nobody is to be admitted", t.path)
	}
	for i, n := range list {
		for _, old := range t.list { // keeps the counts of what is under way
			if old.hash == n.hash && old.namespace == n.namespace && old.asks == n.asks && old.rate == n.rate {
				list[i] = old
			}
		}
	}
	t.list, t.info = list, info
	return nil
}

// match returns the tenant of a token, or nil. It takes the same time whatever
// the tokens have in common.
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
	if now.Sub(t.looked) < lookEvery {
		return t.list
	}
	t.looked = now
	info, err := os.Stat(t.path)
	if err == nil {
		if info.ModTime().Equal(t.info.ModTime()) && info.Size() == t.info.Size() && os.SameFile(info, t.info) {
			return t.list
		}
		if err = t.read(); err == nil {
			t.log.Info("the tokens are read again", "count", len(t.list))
		}
	}
	if err != nil {
		t.log.Error("the tokens cannot be read again, those from before stay", "error", err)
	}
	return t.list
}

var namespaceForm = regexp.MustCompile(`^([a-z0-9_-]{1,64}|\*)$`)

// CheckNamespace reports why s cannot be a token's namespace, or nil.
func CheckNamespace(s string) error {
	if !namespaceForm.MatchString(s) {
		return fmt.Errorf("namespace %.80q: want up to 64 lower-case letters, digits, dashes or underscores, or *", s)
	}
	return nil
}

// CheckToken reports why line cannot stand in a file of tokens, or nil.
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
				return nil, fmt.Errorf("line %d: the same token as in a line before", n)
			}
		}
		if list = append(list, t); len(list) > maxTokens {
			return nil, fmt.Errorf("more than %d tokens", maxTokens)
		}
	}
	return list, lines.Err()
}

// parseTenant reads a line. Its errors do not show what stands where the hash
// should: it might be a token.
func parseTenant(line string) (*tenant, error) {
	fields := strings.Fields(line)
	var hash []byte
	var err error
	if len(fields) > 0 {
		hash, err = hex.DecodeString(fields[0])
	}
	if err != nil || len(hash) != sha256.Size {
		return nil, fmt.Errorf("want a line to begin with the SHA-256 of a token, %d hexadecimal digits", 2*sha256.Size)
	}
	if len(fields) < 2 {
		return nil, fmt.Errorf("no namespace after the hash")
	}
	t := &tenant{hash: [sha256.Size]byte(hash), namespace: fields[1]}
	if err := CheckNamespace(t.namespace); err != nil {
		return nil, err
	}
	for _, field := range fields[2:] {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "asks":
			if t.asks, err = strconv.Atoi(value); err != nil || t.asks < 1 {
				return nil, fmt.Errorf("%.40q: want asks=N, a number from 1", field)
			}
		case "rate":
			if t.rate, err = bucket.ParseRate(value); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%.40q: want asks=N or rate=N/s", field)
		}
	}
	return t, nil
}

// begin counts a request of t. done is nil if it is one too many; then retry
// says when to come again.
func (t *tenant) begin(now time.Time) (retry time.Duration, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asks > 0 && t.now >= t.asks {
		return time.Second, nil
	}
	if t.rate.N > 0 {
		if retry := t.calls.take(now, t.rate); retry > 0 {
			return retry, nil
		}
	}
	t.now++
	return 0, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.now--
	}
}

// everything reports whether t may use all keys.
func (t *tenant) everything() bool { return t.namespace == "*" }

// key is the name under which the store knows t's key. What is too long with
// the namespace before it is known by its hash and its beginning.
func (t *tenant) key(key string) string {
	if t.everything() {
		return key
	}
	if full := t.namespace + "/" + key; len(full) <= bucket.MaxKey {
		return full
	}
	h := sha256.Sum256([]byte(key))
	full := t.namespace + "#" + hex.EncodeToString(h[:]) + "#" + key
	return full[:bucket.MaxKey]
}

// own is t's name for a key of the store. ok is false if it is another's.
func (t *tenant) own(key string) (name string, ok bool) {
	if t.everything() {
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

// claim makes settlements those of t's own leases.
func (t *tenant) claim(done []bucket.Settlement) {
	for i := range done {
		done[i].Key = t.key(done[i].Key)
	}
}
