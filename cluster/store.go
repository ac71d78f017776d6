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

// attemptTimeout is how long one attempt of an operation may wait for its answer.
// The validity of a lease counts from the attempt that got it, less what two clocks
// may drift apart while it waited. So attempts are short, and each takes over the
// place of the one before in the leader's queue.
const attemptTimeout = 10 * time.Second

// errAttemptTimeout ends an attempt. The ask keeps its place in the queue, for the
// next attempt.
var errAttemptTimeout = fmt.Errorf("no answer from the leader within %v", attemptTimeout)

// leader decides operations: the queue of this node, or a connection to the node
// that leads.
type leader interface {
	// do returns the decision on op. An error means that there is none, or none is
	// known: errNotLeader, errUnclear, or that of ctx. When ctx ends, do cancels op
	// at the leader, unless the cause is errAttemptTimeout.
	do(ctx context.Context, op ledger.Op) (waitqueue.Answer, error)

	// stopped is closed when this leader has stopped deciding.
	stopped() <-chan struct{}
}

func (q *leaderQueue) stopped() <-chan struct{} { return q.ended }
func (c *rpcClient) stopped() <-chan struct{}   { return c.ended }

// do implements [leader] for the node that leads.
func (q *leaderQueue) do(ctx context.Context, op ledger.Op) (waitqueue.Answer, error) {
	answers := make(chan waitqueue.Answer, 1)
	req := q.submit(op, func(answer waitqueue.Answer) { answers <- answer })
	select {
	case answer := <-answers:
		return undecided(answer)
	case <-ctx.Done():
	}
	if !errors.Is(context.Cause(ctx), errAttemptTimeout) {
		q.cancel(req)
	}
	return waitqueue.Answer{}, context.Cause(ctx)
}

// Lease implements choked.Store. While no leader can be reached it retries for
// [Config.Timeout], then fails with [bucket.ErrNoQuorum] and the reason. An
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

// decide has an operation decided by the leader, whichever node that is, and
// retries until ctx ends or there is no leader for [Config.Timeout]. newOp
// returns the operation to send; it is called just before each attempt. An attempt
// whose outcome is unknown is repeated only if repeat is set. A lease that may have
// been granted without an answer is returned.
func (n *Node) decide(ctx context.Context, newOp func() ledger.Op, repeat bool) (waitqueue.Answer, error) {
	answer, lost, err := n.tryUntilDecided(ctx, newOp, repeat)
	if err != nil && lost.ask != nil {
		n.returnLease(lost)
	}
	return answer, err
}

// unanswered is an ask that may have been granted, though its answer did not come.
type unanswered struct {
	ask         *bucket.Ask // nil: there is none
	cancelledAt leader      // the leader that was told to cancel it; nil: none was
}

// tryUntilDecided is decide without the return: after an error, it returns the ask
// that may have been granted.
func (n *Node) tryUntilDecided(ctx context.Context, newOp func() ledger.Op, repeat bool) (waitqueue.Answer, unanswered, error) {
	var lost unanswered
	leaderSeen := n.clock.Now() // when there was a leader last, or the search began
	for ctx.Err() == nil {      // an attempt begun after that could be decided all the same
		// Find the leader.
		lead, err := n.router.leader(ctx, leaderSeen+int64(n.cfg.Timeout))
		if err != nil {
			return waitqueue.Answer{}, lost, err
		}

		// Let it decide.
		sent, op := n.clock.Now(), newOp()
		answer, err := attempt(ctx, lead, op)
		if err == nil {
			return answer, lost, nil
		}

		// Note what may have been granted. After an unknown outcome, no leader is
		// known to have cancelled it.
		unclear := errors.Is(err, errUnclear)
		if ask, ok := op.(*bucket.Ask); ok && unclear {
			lost = unanswered{ask: ask}
		} else if ok && ctx.Err() != nil && lost.ask == nil {
			lost = unanswered{ask: ask, cancelledAt: lead}
		}

		// Stop, or try again.
		switch {
		case ctx.Err() != nil || repeat:
		case unclear:
			return waitqueue.Answer{}, lost, err
		case errors.Is(err, errAttemptTimeout): // it may be decided later
			return waitqueue.Answer{}, lost, fmt.Errorf("%w: %w", err, errUnclear)
		}

		// A leader that kept an attempt for longer than lostAfter was there until
		// at most lostAfter before the attempt ended.
		if now := n.clock.Now(); now-sent > int64(lostAfter) {
			leaderSeen = now - int64(lostAfter)
		}
	}
	return waitqueue.Answer{}, lost, context.Cause(ctx)
}

// attempt has lead decide op within attemptTimeout.
func attempt(ctx context.Context, lead leader, op ledger.Op) (waitqueue.Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, attemptTimeout, errAttemptTimeout)
	defer cancel()
	return lead.do(ctx, op)
}

// maxReturns bounds the leases that are being returned at a time.
const maxReturns = 256

// returnLease returns the lease that an unanswered ask may have been granted, in the
// background. If maxReturns leases are being returned already, it is left to expire.
func (n *Node) returnLease(lost unanswered) {
	if lost.cancelledAt != nil && len(n.returnSlots) > maxReturns/2 {
		return // that leader returns it, in all likelihood: keep the slot for another
	}
	select {
	case n.returnSlots <- struct{}{}:
	default:
		return
	}
	started := n.tasks.spawn(func() {
		defer func() { <-n.returnSlots }()
		if lost.cancelledAt == nil || n.mayMissCancel(lost.cancelledAt) {
			n.settleUnspent(lost.ask)
		}
	})
	if !started {
		<-n.returnSlots
	}
}

// mayMissCancel waits for as long as a leader may take to cancel an ask. It reports
// whether the leader, or this node, stops before.
func (n *Node) mayMissCancel(lead leader) bool {
	timer := time.NewTimer(lostAfter)
	defer timer.Stop()
	select {
	case <-lead.stopped():
		return true
	case <-n.flush:
		return true
	case <-timer.C:
		return false
	}
}

// settleUnspent settles the lease of an ask as unspent. It retries for as long as
// the lease could live.
func (n *Node) settleUnspent(ask *bucket.Ask) {
	ctx, cancel := context.WithTimeout(n.ctx, bucket.TTL)
	defer cancel()
	unspent := &bucket.Settlement{Key: ask.Key, ID: ask.ID}
	for {
		_, err := n.decide(ctx, func() ledger.Op { return unspent }, true)
		if err == nil {
			return
		}
		if !errors.Is(err, bucket.ErrNoQuorum) {
			n.log.Debug("lease not returned, it expires", "key", fmt.Sprintf("%.64q", ask.Key), "lease", ask.ID, "error", err)
			return
		}
	}
}

// awaitReturns waits until all leases are returned that can be, returnWithin has
// passed, or ctx ends. No lease is returned after it.
func (n *Node) awaitReturns(ctx context.Context) {
	close(n.flush)
	ctx, cancel := context.WithTimeout(ctx, returnWithin)
	defer cancel()
	for range maxReturns {
		select {
		case n.returnSlots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}
