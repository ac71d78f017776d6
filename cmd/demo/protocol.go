package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/choked/choked"
)

// The demo and its workers exchange one JSON value a line. The first line on a
// worker's standard input is its job, and the second starts its callers. The end
// of the input stops the worker, so that it does not outlive the demo. The worker
// reports its status on its standard output.

// job is the configuration of a worker.
type job struct {
	Name              string
	Slot, Incarnation int
	Provider          string // URL
	Limits            choked.Limits
	Callers           int
	Bias              float64
	Prompts           string // file of the text to send; "": the built-in text
	Records           string // file to which admissions are written
	Verbose           bool

	Store        string
	Bind, Secret string
	StoreURL     string // of the service that the store needs; "" if it needs none
	Join         []string
	Voters       int // number of voters of a complete cluster
}

// status is the state of a worker.
type status struct {
	Ready     bool   // the worker has joined the store
	NotReady  string // why Ready is false
	Complete  bool   // the store would survive the loss of its leader
	Sent      int64  // admitted calls
	Leads     bool   // the worker is the store's leader
	Leader    string // name of the leader, as far as the worker knows
	Waiting   int    // callers that wait for admission
	Exchanges int64  // with the store
	Failed    int64  // calls that failed for another reason than a 429 of the provider
	Error     string // of the last failed call
	Final     bool   // this is the last status: the worker admits no more calls

	Calibration float64 // factor by which the token estimates are corrected; 0: the worker makes none

	LongestUnserved time.Duration // when Final: the longest wait of a caller that was not admitted
}

// reply is the provider's answer to a prompt.
type reply struct {
	Usage struct {
		TotalTokens int64 `json:"total_tokens"`
	} `json:"usage"`
}

// Used implements [choked.Usage].
func (r reply) Used() (choked.Cost, bool) { return choked.Cost{Tokens: r.Usage.TotalTokens}, true }

// setRetryAfter sets Retry-After, in whole seconds, and as some providers do,
// Retry-After-Ms, in milliseconds. Both are rounded up.
func setRetryAfter(h http.Header, d time.Duration) {
	h.Set("Retry-After", strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
	h.Set("Retry-After-Ms", strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10))
}

// retryAfter returns the delay in the headers, or a second if they have none.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.Atoi(h.Get("Retry-After-Ms")); err == nil && ms >= 0 {
		return time.Duration(ms) * time.Millisecond
	}
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s >= 0 {
		return time.Duration(s) * time.Second
	}
	return time.Second
}
