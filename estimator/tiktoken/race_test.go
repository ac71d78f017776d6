//go:build race

package tiktoken_test

// Under the race detector sync.Pool drops some of its items on purpose.
func init() { poolDrops = true }
