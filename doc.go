// Package choked limits what many workers together ask of one provider account:
// so many requests a second, so many LLM tokens a minute, input and output together or
// apart, so much money a day, with several rates on each unit if needed. Over every
// window of time W, on all workers together,
//
//	admitted cost ≤ burst + rate · W
//
// A worker makes one [Choke] over a [Store] that the workers share, and a
// [Limiter] for each key. Package cluster is a store that the workers keep among
// themselves; [NewLocal] is one for a single process.
//
// A limiter leases quota from the store ahead of its demand and spends it from
// memory, so most calls cost about as much as reading the clock. Callers that have
// to wait are queued, first come, first served, and woken when quota is available.
// Nothing polls.
package choked
