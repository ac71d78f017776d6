//go:build race

package tiktoken_test

// Under the race detector sync.Pool drops a part of what it is given, on purpose.
func init() { poolDrops = true }
