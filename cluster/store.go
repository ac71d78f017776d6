package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// errAgain ends an attempt that is asked again: its place in line stays.
var errAgain = errors.New("asked again")

// attempt is how long one attempt of an ask may wait in line. The validity of a
// lease counts from the attempt that got it, less what two clocks may differ by
// in the time it waited: so attempts are short, and take over each other's
// place.
const attempt = 10 * time.Second

// leader decides operations: the authority in this process, or a link to it.
type leader interface {
	// do returns the decision on op. The error says that there is none:
	// errNotLeader, errUnclear, or that of ctx.
	do(ctx context.Context, op ledger.Op) (waitqueue.Answer, error)
	// gone is closed when this one decides no more.
	gone() <-chan struct{}
}

func (a *authority) gone() <-chan struct{} { return a.ended }
func (l *link) gone() <-chan struct{}      { return l.over }

// do implements [leader] for the process that leads.
func (a *authority) do(ctx context.Context, op ledger.Op) (waitqueue.Answer, error) {
	answers := make(chan waitqueue.Answer, 1)
	req := a.submit(op, func(answer waitqueue.Answer) { answers <- answer })
	select {
	case answer := <-answers:
		return undecided(answer)
	case <-ctx.Done():
	}
	if !errors.Is(context.Cause(ctx), errAgain) {
		a.cancel(req)
	}
	return waitqueue.Answer{}, context.Cause(ctx)
}

// Lease implements choked.Store. While no leader can be reached it retries for
// [Config.QuorumTimeout], then fails with [bucket.ErrNoQuorum] and the reason. An
// error does not name the key: the caller knows it, and names it once.
func (n *Node) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := ask.Check(); err != nil {
		return bucket.Lease{}, err
	}
	start := n.clock.Now()
	until := start + int64(min(max(ask.MaxWait, 0), 1<<60))
	var sent int64
	answer, err := n.decide(ctx, func() ledger.Op {
		sent = n.clock.Now()
		a := ask
		a.MaxWait = time.Duration(max(until-sent, 0))
		return &a
	}, true)
	if err != nil {
		return bucket.Lease{}, err
	}
	lease := answer.Grant.Lease(ask.ID, answer.Waited)
	lease.ValidFor += time.Duration(sent - start)
	return lease, answer.Err
}

// Settle implements choked.Store. It retries as Lease does. Its error names each
// settlement that failed.
func (n *Node) Settle(ctx context.Context, done []bucket.Settlement) error {
	for i := range done {
		if err := done[i].Check(); err != nil {
			return fmt.Errorf("settlement %d of %d: %w", i+1, len(done), err)
		}
	}
	errs := make([]error, len(done))
	var each sync.WaitGroup
	for i := range done {
		each.Go(func() {
			answer, err := n.decide(ctx, func() ledger.Op { return &done[i] }, true)
			if err = cmp.Or(err, answer.Err); err != nil {
				errs[i] = fmt.Errorf("settle %.64q, lease %v: %w", done[i].Key, done[i].ID, err)
			}
		})
	}
	each.Wait()
	return errors.Join(errs...)
}

// Adjust implements choked.Store. It retries as Lease does, until the adjustment
// is sent: if no answer comes after that, it may have been applied or not, and the
// error is not [bucket.ErrUnavailable]. An error does not name the key.
func (n *Node) Adjust(ctx context.Context, a bucket.Adjustment) error {
	if err := a.Check(); err != nil {
		return err
	}
	answer, err := n.decide(ctx, func() ledger.Op { return &a }, false)
	return cmp.Or(err, answer.Err)
}

// decide has an operation decided by whoever leads. op is called before each
// attempt, just before it is sent. Only with again, an attempt whose outcome is
// unclear is made again.
func (n *Node) decide(ctx context.Context, op func() ledger.Op, again bool) (answer waitqueue.Answer, err error) {
	var unclear *bucket.Ask // it may have been granted
	var told leader         // that nobody wants it any more
	defer func() {
		if err != nil && unclear != nil {
			n.giveBack(unclear, told)
		}
	}()
	leaderless := n.clock.Now() // since when
	for {
		if ctx.Err() != nil { // nothing is begun that might be decided all the same
			return waitqueue.Answer{}, context.Cause(ctx)
		}
		lead, err := n.leader(ctx, leaderless+int64(n.cfg.QuorumTimeout))
		if err != nil {
			return waitqueue.Answer{}, err
		}
		began := n.clock.Now()
		try, cancel := context.WithTimeoutCause(ctx, attempt, errAgain)
		op := op()
		answer, err := lead.do(try, op)
		cancel()
		if errors.Is(err, errUnclear) {
			unclear, _ = op.(*bucket.Ask)
		}
		switch {
		case err == nil:
			return answer, nil
		case ctx.Err() != nil:
			if ask, ok := op.(*bucket.Ask); ok && unclear == nil {
				unclear, told = ask, lead
			}
			return waitqueue.Answer{}, context.Cause(ctx)
		case errors.Is(err, errUnclear) && !again:
			return waitqueue.Answer{}, err
		case errors.Is(err, errAgain) && !again: // it may be decided yet
			return waitqueue.Answer{}, fmt.Errorf("no answer from the leader within %v: %w", attempt, errUnclear)
		}
		// A leader that kept an attempt for so long was there until shortly
		// before its end.
		if now := n.clock.Now(); now-began > int64(lostAfter) {
			leaderless = now - int64(lostAfter)
		}
	}
}

// maxReturns bounds the leases that are given back at a time.
const maxReturns = 256

// giveBack returns what ask may have been granted, though nobody waits for the
// answer any more. It tries for as long as the lease would live. A leader that
// was told that the ask is withdrawn does so by itself, unless it goes just then,
// or this node does: until then there is nothing to do.
func (n *Node) giveBack(ask *bucket.Ask, told leader) {
	if told != nil && len(n.returns) > maxReturns/2 {
		return // others need it more
	}
	select {
	case n.returns <- struct{}{}:
	default:
		return // it expires
	}
	back := func() {
		defer func() { <-n.returns }()
		if told != nil {
			timer := time.NewTimer(lostAfter)
			defer timer.Stop()
			select {
			case <-told.gone():
			case <-n.leaving:
			case <-timer.C:
				return
			}
		}
		ctx, cancel := context.WithTimeout(n.ctx, bucket.TTL)
		defer cancel()
		none := &bucket.Settlement{Key: ask.Key, ID: ask.ID}
		for {
			_, err := n.decide(ctx, func() ledger.Op { return none }, true)
			if errors.Is(err, bucket.ErrNoQuorum) { // not yet
				continue
			}
			if err != nil {
				n.log.Debug("give back a lease", "key", fmt.Sprintf("%.64q", ask.Key), "lease", ask.ID, "error", err)
			}
			return
		}
	}
	if !n.spawn(back) {
		<-n.returns
	}
}

// awaitReturns returns when all leases are given back that can be, and takes no
// more, or when ctx ends.
func (n *Node) awaitReturns(ctx context.Context) {
	close(n.leaving)
	ctx, cancel := context.WithTimeout(ctx, returnWithin)
	defer cancel()
	for range maxReturns {
		select {
		case n.returns <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}
