//go:build linux

package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/choked/choked/internal/testkit/history"
)

// Process is one incarnation of a worker. Safe for concurrent use.
type Process struct {
	Job     Job
	Log     string // file
	Started int64  // of history.Now, as all times here

	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu       sync.Mutex
	status   Status
	late     []lateness    // after each status in which it grew
	updated  chan struct{} // closed and replaced at each status, and at the end
	paused   bool
	killed   bool
	ended    chan struct{}
	end      int64 // when the process ended
	err      error // of the process, once ended
	reported bool  // AwaitEnd has returned err
}

// lateness is the sum of a worker's lateness up to a time.
type lateness struct {
	at  int64
	sum time.Duration
}

// launch starts this program as a worker. wrap is a command that runs it, such as
// "ip netns exec".
func launch(job Job, log string, wrap []string) (*Process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	args := append(append([]string{}, wrap...), program, job.Name) // the argument shows the name in a list of processes
	p := &Process{Job: job, Log: log, cmd: exec.Command(args[0], args[1:]...), updated: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), workerEnv+"=1")
	if job.BusyLoops > 0 {
		p.cmd.Env = append(p.cmd.Env, "GOMAXPROCS=1")
	}
	// A worker that is stopped by SIGSTOP does not notice the end of its input.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logs, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	p.cmd.Stderr = logs
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.Started = history.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", job.Name, err)
	}
	go p.listen(stdout)               // ends with the process
	p.stdin.Write(append(line, '\n')) //nolint:errcheck // fails only if the process has ended, which listen reports
	return p, nil
}

// listen stores each status that the worker reports, and notes the end of the
// process.
func (p *Process) listen(stdout io.Reader) {
	for statuses := json.NewDecoder(stdout); ; {
		var s Status
		if statuses.Decode(&s) != nil {
			break
		}
		p.mu.Lock()
		if s.Late > p.status.Late {
			p.late = append(p.late, lateness{s.At, s.Late})
		}
		p.status = s
		close(p.updated)
		p.updated = make(chan struct{})
		p.mu.Unlock()
	}
	io.Copy(io.Discard, stdout) //nolint:errcheck // the output ends with the process
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = history.Now()
	if !p.killed {
		p.err = err
	}
	close(p.updated)
	p.updated = make(chan struct{})
	close(p.ended)
}

// Status returns the last status that the worker reported.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Late returns the sum of the worker's lateness between two times. It may include a
// little of the lateness after them, up to the next status.
func (p *Process) Late(from, to int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var before, after time.Duration
	for _, l := range p.late {
		if l.at <= from {
			before = l.sum
		}
		after = l.sum
		if l.at >= to {
			break
		}
	}
	return after - before
}

// Running reports whether the process has not ended and is not paused.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.hasEnded() && !p.paused
}

// endedBefore reports whether the process ended before the time at.
func (p *Process) endedBefore(at int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hasEnded() && p.end < at
}

func (p *Process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Await waits until ok returns true for the worker's status. It returns an error
// if that takes longer than timeout or the process ends. what describes the wanted
// status in the error.
func (p *Process) Await(timeout time.Duration, what string, ok func(Status) bool) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		p.mu.Lock()
		s, updated, hasEnded := p.status, p.updated, p.hasEnded()
		p.mu.Unlock()
		if s.At != 0 && ok(s) {
			return nil
		}
		if hasEnded {
			return fmt.Errorf("%s: await %q: process has ended: %w\n%s", p.Job.Name, what, errors.Join(p.err, errGone), p.LogTail())
		}
		select {
		case <-updated:
		case <-timer.C:
			return fmt.Errorf("%s: await %q: not within %v: status %+v", p.Job.Name, what, timeout, s)
		}
	}
}

var errGone = errors.New("no further status")

// ErrRunning means that a process has not ended.
var ErrRunning = errors.New("process is still running")

// AwaitEnd waits until the process has ended and returns its error.
func (p *Process) AwaitEnd(timeout time.Duration) error {
	select {
	case <-p.ended: // checked first, for a timeout of zero
		return p.endError()
	default:
	}
	select {
	case <-p.ended:
		return p.endError()
	case <-time.After(timeout):
		return fmt.Errorf("%s: %w after %v", p.Job.Name, ErrRunning, timeout)
	}
}

// endError returns the error of a process that has ended, and notes that the end
// was expected.
func (p *Process) endError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reported = true
	return p.err
}

// unexpected returns the error of a process that has ended by itself, unless the
// end was expected. Tests that look at the running processes only would miss it.
func (p *Process) unexpected() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.hasEnded() || p.reported || p.err == nil {
		return nil
	}
	return fmt.Errorf("%s has ended by itself: %w\n%s", p.Job.Name, p.err, p.LogTail())
}

// SendCallers sends the worker an order that sets its number of callers.
func (p *Process) SendCallers(callers int) error {
	line, err := json.Marshal(Order{callers})
	if err != nil {
		return err
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send order to %s: %w", p.Job.Name, err)
	}
	return nil
}

// SetCallers sets the worker's number of callers and waits until it has them.
func (p *Process) SetCallers(callers int) error {
	if err := p.SendCallers(callers); err != nil {
		return err
	}
	return p.Await(10*time.Second, fmt.Sprint(callers, " callers"), func(s Status) bool { return s.Callers == callers })
}

// Leave makes the worker leave the cluster and exit, and returns its error.
func (p *Process) Leave(timeout time.Duration) error {
	p.stdin.Close()
	if err := p.AwaitEnd(timeout); err != nil {
		return fmt.Errorf("%s: leave: %w\n%s", p.Job.Name, err, p.LogTail())
	}
	return nil
}

// Kill sends SIGKILL to the worker and waits for its end. If the process has
// ended, Kill does nothing.
func (p *Process) Kill() error {
	p.mu.Lock()
	if p.hasEnded() {
		p.mu.Unlock()
		return nil
	}
	p.killed = true
	p.mu.Unlock()
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := p.AwaitEnd(10 * time.Second); err != nil {
		return err
	}
	p.stdin.Close()
	return nil
}

// killHard kills the worker and the command that runs it. Either may not be running.
func (p *Process) killHard() {
	if p.hasEnded() {
		return
	}
	p.Kill()             //nolint:errcheck // see below
	p.cmd.Process.Kill() //nolint:errcheck // the command that runs the worker
}

// Pause stops the process by SIGSTOP until [Process.Resume].
func (p *Process) Pause() error {
	p.mu.Lock()
	p.paused = true
	p.mu.Unlock()
	return p.signal(syscall.SIGSTOP)
}

// Resume continues a paused process by SIGCONT.
func (p *Process) Resume() error {
	p.mu.Lock()
	p.paused = false
	p.mu.Unlock()
	return p.signal(syscall.SIGCONT)
}

// signal sends sig to the worker itself, not to the command that runs it.
func (p *Process) signal(sig syscall.Signal) error {
	pid := p.Status().PID
	if pid == 0 {
		pid = p.cmd.Process.Pid
	}
	if p.hasEnded() {
		return nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send signal %v to %s: %w", sig, p.Job.Name, err)
	}
	return nil
}

// LogTail returns the end of the worker's log.
func (p *Process) LogTail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}
