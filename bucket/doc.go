// Package bucket is the arithmetic of choked: rates, costs, and buckets that grant
// their quota as leases. It is pure: integers only, no clock, no I/O, no
// goroutines, so a replicated state machine can be built on it and every
// replica computes the same numbers.
//
// A bucket belongs to a key. It holds one token bucket per [Rate], each kept as
// a generic cell rate algorithm (GCRA, ITU-T I.371): a single number, the
// theoretical arrival time, from which the level at any instant follows.
//
// The word "token" means an LLM token throughout. A bucket holds units: requests
// and tokens, and it treats both alike.
//
// Instants are nanoseconds of the store's own time: a clock that starts at zero
// with the store, never runs backwards and never faster than real time.
package bucket
