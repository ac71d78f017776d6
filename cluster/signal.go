package cluster

// signal holds at most one notice that something has changed, until it is received.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

// set gives notice and never blocks.
func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
