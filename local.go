package choked

import "github.com/choked/choked/internal/local"

// NewLocal returns a [Store] in this process's memory, in which all buckets are
// full. Its limits hold for this process only. It owns no goroutines.
func NewLocal() Store { return local.New() }
