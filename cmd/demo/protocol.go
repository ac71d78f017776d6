package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/choked/choked"
)

// What the processes tell each other, one JSON value a line. The first line on
// a worker's standard input is its job, the second says to begin, and the end
// of input to stop: so a worker does not outlive the process that started it.
// On its standard output it tells its status.

// job is what a worker has to do.
type job struct {
	Name              string
	Slot, Incarnation int
	Provider          string // URL
	Limits            choked.Limits
	Callers           int
	Bias              float64
	Prompts           string // file; "": built in
	Records           string // file of admissions
	Verbose           bool

	Store        string
	Bind, Secret string
	StoreURL     string // of the service behind the store, if there is one
	Join         []string
	Voters       int // that make the cluster complete
}

// status is how a worker stands.
type status struct {
	Ready     bool   // it has a part in the store
	Missing   string // or what is missing for that
	Complete  bool   // the store can lose its leader and go on
	Sent      int64  // calls, admitted
	Leads     bool   // it is the leader of the store
	Leader    string // as far as it knows
	Waiting   int    // callers
	Exchanges int64  // with the store
	Failed    int64  // calls that came to nothing, but for those refused by the provider
	Error     string // the last of them
	Final     bool   // it admits no more

	Calibration float64 // what its estimates of tokens are multiplied by; 0: it makes none

	Unmet time.Duration // when Final: the longest wait of a caller that was not served
}

// reply is the provider's answer to a prompt.
type reply struct {
	Usage struct {
		TotalTokens int64 `json:"total_tokens"`
	} `json:"usage"`
}

// TokensUsed implements [choked.Usage].
func (r reply) TokensUsed() (int64, bool) { return r.Usage.TotalTokens, true }

// setRetryAfter says when to come again: in whole seconds for all clients, and
// as some providers do, to the millisecond beside it.
func setRetryAfter(h http.Header, d time.Duration) {
	h.Set("Retry-After", strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
	h.Set("Retry-After-Ms", strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10))
}

func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.Atoi(h.Get("Retry-After-Ms")); err == nil && ms >= 0 {
		return time.Duration(ms) * time.Millisecond
	}
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s >= 0 {
		return time.Duration(s) * time.Second
	}
	return time.Second
}
