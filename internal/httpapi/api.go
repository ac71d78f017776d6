// Package httpapi defines the messages of the HTTP API between package server and
// its clients. They are JSON. Times and durations are whole nanoseconds, in fields
// whose names end in _ns. Spend is in whole millionths of a dollar.
package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/choked/choked/bucket"
)

// Version is the first part of the paths of the API. A service answers requests for
// another version with an error of code [OtherVersion].
const Version = "/v2"

// MaxBody bounds the body of a request and of an answer, in bytes.
const MaxBody = 1 << 20

// MaxSettlements bounds the settlements in one request, since each may be an
// operation of its own at the store.
const MaxSettlements = 1024

// Poll is how long a request waits for the decision on an ask. After that the
// service answers that the ask is pending, and the client sends another request to
// resume it. So the service notices a client that has crashed, and the validity of a
// lease, which counts from the client's last request, does not shrink with the wait.
const Poll = 5 * time.Second

// Decode parses b as one JSON value without unknown fields, and without members that
// stand twice: a second "limits" could lift a limit.
func Decode(b []byte, v any) error {
	if !utf8.Valid(b) {
		return errors.New("decode body: not UTF-8, want a key of other bytes in key_base64")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode body: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("decode body: more than one JSON value")
	}
	if err := checkMembers(b); err != nil {
		return fmt.Errorf("decode body: %w", err)
	}
	return nil
}

// Key is a key: as text if it is UTF-8, and in base64 otherwise.
type Key struct {
	Text   string `json:"key,omitempty"`
	Base64 []byte `json:"key_base64,omitempty"`
}

// KeyOf returns the message form of k.
func KeyOf(k string) Key {
	if utf8.ValidString(k) {
		return Key{Text: k}
	}
	return Key{Base64: []byte(k)}
}

// Value returns the key's bytes.
func (k Key) Value() (string, error) {
	switch {
	case k.Text != "" && k.Base64 != nil:
		return "", errors.New("both key and key_base64 are set: want one of them")
	case k.Base64 != nil:
		k.Text = string(k.Base64)
	}
	return k.Text, bucket.CheckKey(k.Text)
}

// ID is a lease id. It is sent as a string, since JavaScript and other languages lose
// digits of 64-bit numbers.
type ID bucket.LeaseID

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(bucket.LeaseID(id).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(b []byte) error {
	holder, seq, ok := strings.Cut(string(b), "-")
	var err1, err2 error
	id.Holder, err1 = strconv.ParseUint(holder, 16, 64)
	id.Seq, err2 = strconv.ParseUint(seq, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return fmt.Errorf(`lease id %.40q: want the holder in hexadecimal, a dash and a number, as in "1f3a-7"`, b)
	}
	return nil
}

// Settlement is [bucket.Settlement].
type Settlement struct {
	Key
	ID    ID          `json:"id"`
	Spent bucket.Cost `json:"spent"`
}

// SettlementsOf returns the message form of done.
func SettlementsOf(done []bucket.Settlement) []Settlement {
	list := make([]Settlement, len(done))
	for i, s := range done {
		list[i] = Settlement{Key: KeyOf(s.Key), ID: ID(s.ID), Spent: s.Spent}
	}
	return list
}

// Settlements returns the settlements of the message.
func Settlements(list []Settlement) ([]bucket.Settlement, error) {
	if len(list) > MaxSettlements {
		return nil, fmt.Errorf("%d settlements in a request: want at most %d", len(list), MaxSettlements)
	}
	var done []bucket.Settlement
	for _, s := range list {
		key, err := s.Key.Value()
		if err != nil {
			return nil, err
		}
		d := bucket.Settlement{Key: key, ID: bucket.LeaseID(s.ID), Spent: s.Spent}
		if err := d.Check(); err != nil {
			return nil, err
		}
		done = append(done, d)
	}
	return done, nil
}

// LeaseRequest is [bucket.Ask].
type LeaseRequest struct {
	Key
	ID      ID            `json:"id"`
	Limits  Limits        `json:"limits,omitzero"`
	Defined int64         `json:"defined_ns,omitempty"`
	Need    bucket.Cost   `json:"need,omitzero"`
	Want    bucket.Cost   `json:"want,omitzero"`
	MaxWait time.Duration `json:"max_wait_ns,omitempty"`
	Done    []Settlement  `json:"done,omitempty"`

	// Resume continues a pending ask at the node that answered that it is pending.
	// Key and ID name the ask; the other fields are ignored.
	Resume bool `json:"resume,omitempty"`
}

// LeaseRequestOf returns the message form of a.
func LeaseRequestOf(a bucket.Ask) LeaseRequest {
	return LeaseRequest{
		Key: KeyOf(a.Key), ID: ID(a.ID), Limits: Limits(a.Limits), Defined: a.Defined,
		Need: a.Need, Want: a.Want, MaxWait: a.MaxWait, Done: SettlementsOf(a.Done),
	}
}

// Ask returns the ask of the message. It is not checked if r resumes an ask.
func (r *LeaseRequest) Ask() (bucket.Ask, error) {
	a := bucket.Ask{
		ID: bucket.LeaseID(r.ID), Limits: bucket.Limits(r.Limits), Defined: r.Defined,
		Need: r.Need, Want: r.Want, MaxWait: r.MaxWait,
	}
	var err error
	if a.Key, err = r.Key.Value(); err != nil || r.Resume {
		return a, err
	}
	if a.Done, err = Settlements(r.Done); err != nil {
		return a, err
	}
	return a, a.Check()
}

// Lease is [bucket.Lease], or the answer that the ask is pending.
type Lease struct {
	ID         ID            `json:"id"`
	OK         bool          `json:"ok"`
	Pending    bool          `json:"pending,omitempty"` // not decided yet: resume the ask
	Granted    bucket.Cost   `json:"granted"`
	ValidFor   time.Duration `json:"valid_for_ns"` // counted from when the client sent its last request
	Drips      []Drip        `json:"drips,omitempty"`
	RetryAfter time.Duration `json:"retry_after_ns"`
	Level      Level         `json:"level"`
	At         int64         `json:"at_ns"`
}

// Drip is [bucket.Drip].
type Drip struct {
	Unit  string        `json:"unit"`
	Ready time.Duration `json:"ready_ns"`
	N     int64         `json:"n"`
	Per   time.Duration `json:"per_ns"`
}

// LeaseOf returns the message form of l.
func LeaseOf(l bucket.Lease) Lease {
	out := Lease{ID: ID(l.ID), OK: l.OK, Granted: l.Granted, ValidFor: l.ValidFor, RetryAfter: l.RetryAfter, Level: Level(l.Level), At: l.At}
	for _, d := range l.Drips {
		out.Drips = append(out.Drips, Drip{unitName(d.Unit), d.Ready, d.N, d.Per})
	}
	return out
}

// Value returns the lease of the message.
func (l Lease) Value() (bucket.Lease, error) {
	out := bucket.Lease{ID: bucket.LeaseID(l.ID), OK: l.OK, Granted: l.Granted, ValidFor: l.ValidFor, RetryAfter: l.RetryAfter, Level: bucket.Cost(l.Level), At: l.At}
	if err := l.Granted.Check(); err != nil {
		return out, err
	}
	for _, d := range l.Drips {
		unit, err := unitOf(d.Unit)
		if err != nil {
			return out, fmt.Errorf("drip %+v: %w", d, err)
		}
		if d.Ready < 0 || d.N < 1 || d.Per < 1 {
			return out, fmt.Errorf("drip %+v: want ready_ns of 0 or more, n and per_ns of 1 or more", d)
		}
		out.Drips = append(out.Drips, bucket.Drip{Unit: unit, Ready: d.Ready, N: d.N, Per: d.Per})
	}
	return out, nil
}

// SettleRequest settles leases.
type SettleRequest struct {
	Done []Settlement `json:"done"`
}

// AdjustRequest is [bucket.Adjustment].
type AdjustRequest struct {
	Key
	Limits  Limits        `json:"limits,omitzero"`
	Defined int64         `json:"defined_ns,omitempty"`
	Return  bucket.Cost   `json:"return,omitzero"`
	Since   int64         `json:"since_ns,omitempty"`
	Charge  bucket.Cost   `json:"charge,omitzero"`
	Empty   time.Duration `json:"empty_ns,omitempty"`
}

// AdjustRequestOf returns the message form of a.
func AdjustRequestOf(a bucket.Adjustment) AdjustRequest {
	return AdjustRequest{
		Key: KeyOf(a.Key), Limits: Limits(a.Limits), Defined: a.Defined,
		Return: a.Return, Since: a.Since, Charge: a.Charge, Empty: a.Empty,
	}
}

// Adjustment returns the adjustment of the message.
func (r *AdjustRequest) Adjustment() (bucket.Adjustment, error) {
	a := bucket.Adjustment{
		Limits: bucket.Limits(r.Limits), Defined: r.Defined,
		Return: r.Return, Since: r.Since, Charge: r.Charge, Empty: r.Empty,
	}
	var err error
	if a.Key, err = r.Key.Value(); err != nil {
		return a, err
	}
	return a, a.Check()
}

// AcquireRequest asks for quota that the service spends for the client.
type AcquireRequest struct {
	Key
	Limits Limits         `json:"limits"`
	Cost   *bucket.Cost   `json:"cost,omitempty"`    // default: 1 request
	Wait   *time.Duration `json:"wait_ns,omitempty"` // default: 30 s
}

// Acquired is the answer to an [AcquireRequest]: whether the cost is spent.
type Acquired struct {
	OK         bool          `json:"ok"`
	Waited     time.Duration `json:"waited_ns"`
	RetryAfter time.Duration `json:"retry_after_ns,omitempty"`
	Level      Level         `json:"level"`
}

// Status is the status of one node of the service.
type Status struct {
	Ready   bool   `json:"ready"`
	Missing string `json:"missing,omitempty"` // why the node is not ready
	Cluster
	Keys []KeyInfo `json:"keys"`
}

// Cluster describes the nodes behind the service, as one of them knows them.
type Cluster struct {
	Node     string   `json:"node,omitempty"`   // name of the node that answers
	Leader   string   `json:"leader,omitempty"` // name of the node that leads
	Members  []Member `json:"members,omitempty"`
	Voters   int      `json:"voters,omitempty"`    // nodes that vote; 0: not known
	Gone     []Gone   `json:"gone,omitempty"`      // voters that are missing
	Degraded string   `json:"degraded,omitempty"`  // how many are missing, and what that means
	NoQuorum bool     `json:"no_quorum,omitempty"` // too many are missing: nothing is decided
	Hidden   string   `json:"hidden,omitempty"`    // why the nodes are not listed
}

// Member is a node of the cluster behind the service.
type Member struct {
	ID     string `json:"id,omitempty"` // tells nodes of one name apart
	Name   string `json:"name"`
	Addr   string `json:"addr"`
	Leader bool   `json:"leader,omitempty"`
	Voter  bool   `json:"voter,omitempty"`
	Sick   bool   `json:"sick,omitempty"`
	Self   bool   `json:"self,omitempty"`
}

// Gone is a voter that is not alive, or whose disk has failed.
type Gone struct {
	ID   string        `json:"id"`
	Name string        `json:"name,omitempty"` // empty: the node that answers has not seen it
	Addr string        `json:"addr,omitempty"`
	Sick bool          `json:"sick,omitempty"`
	For  time.Duration `json:"for_ns"`
}

// KeyInfo is [bucket.Info].
type KeyInfo struct {
	Key
	Limits string        `json:"limits"`
	Level  Level         `json:"level"`
	Leased bucket.Cost   `json:"leased"`
	Leases int           `json:"leases"`
	Full   time.Duration `json:"full_in_ns"`
}
