// Package choked limits what many workers together ask of one provider
// account: so many requests a second and so many LLM tokens a minute, several
// rates on each if need be. Over every window of time W, on all workers
// together,
//
//	admitted cost ≤ burst + rate · W
//
// A worker makes one [Choke] over a [Store] that the workers share, and a
// [Limiter] for each key. Package cluster is a store that the workers keep
// among themselves; [NewLocal] is one for a single process.
//
// A limiter leases quota from the store ahead of its demand and spends it from
// memory, so most calls cost about as much as reading the clock. Those that
// have to wait stand in line, first come, first served, and are woken when
// their turn has come; nobody polls.
package choked
