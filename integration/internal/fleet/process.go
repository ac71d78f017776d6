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
	Job   Job
	Log   string // file
	Begun int64  // of history.Now, as are all instants

	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu     sync.Mutex
	status Status
	late   []lateness    // each time that there was more
	news   chan struct{} // closed, and replaced, at each status
	paused bool
	killed bool
	ended  chan struct{}
	end    int64 // when
	err    error // why
	told   bool  // somebody has asked why
}

// lateness is how late a worker has been in all, at an instant.
type lateness struct {
	at  int64
	sum time.Duration
}

// launch starts this program again as a worker. wrap is a command that is to
// run it, such as "ip netns exec".
func launch(job Job, log string, wrap []string) (*Process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	args := append(append([]string{}, wrap...), program, job.Name) // the name is for those who list processes
	p := &Process{Job: job, Log: log, cmd: exec.Command(args[0], args[1:]...), news: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), workerEnv+"=1")
	if job.Busy > 0 {
		p.cmd.Env = append(p.cmd.Env, "GOMAXPROCS=1")
	}
	// One that is stopped would not notice the end of its input.
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
	p.Begun = history.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", job.Name, err)
	}
	go p.listen(stdout)               // ends with the process
	p.stdin.Write(append(line, '\n')) //nolint:errcheck // one that is gone already says so by its end
	return p, nil
}

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
		close(p.news)
		p.news = make(chan struct{})
		p.mu.Unlock()
	}
	io.Copy(io.Discard, stdout) //nolint:errcheck // it ends anyway
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = history.Now()
	if !p.killed {
		p.err = err
	}
	close(p.news)
	p.news = make(chan struct{})
	close(p.ended)
}

// Status returns what the worker has said last.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Late returns by how much the worker was late between two instants, or a little more.
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
	return !p.over() && !p.paused
}

// endedBefore reports whether the process had ended at an instant.
func (p *Process) endedBefore(at int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over() && p.end < at
}

func (p *Process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Await returns when the worker's status is as wanted. The error says that it
// was not in time, or that the process has ended.
func (p *Process) Await(within time.Duration, what string, as func(Status) bool) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		p.mu.Lock()
		s, news, over := p.status, p.news, p.over()
		p.mu.Unlock()
		if s.At != 0 && as(s) {
			return nil
		}
		if over {
			return fmt.Errorf("%s: %s: has ended: %w\n%s", p.Job.Name, what, errors.Join(p.err, errEnded), p.LastWords())
		}
		select {
		case <-news:
		case <-timer.C:
			return fmt.Errorf("%s: %s: not within %v: %+v", p.Job.Name, what, within, s)
		}
	}
}

var errEnded = errors.New("the process is gone")

// ErrRuns means that a process has not ended.
var ErrRuns = errors.New("the process still runs")

// Ended waits for the end of a process that ends by itself, and returns its
// error.
func (p *Process) Ended(within time.Duration) error {
	select {
	case <-p.ended: // also if within is zero
		return p.why()
	default:
	}
	select {
	case <-p.ended:
		return p.why()
	case <-time.After(within):
		return fmt.Errorf("%s: %w after %v", p.Job.Name, ErrRuns, within)
	}
}

// why returns the error of a process that has ended, to one who expects that it has.
func (p *Process) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = true
	return p.err
}

// unexpected returns the error of a process that has ended by itself, if nobody has
// asked for it: who looks at those that run does not see that one is missing.
func (p *Process) unexpected() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over() || p.told || p.err == nil {
		return nil
	}
	return fmt.Errorf("%s has ended by itself: %w\n%s", p.Job.Name, p.err, p.LastWords())
}

// Tell tells the worker how many callers to have.
func (p *Process) Tell(callers int) error {
	line, err := json.Marshal(Order{callers})
	if err != nil {
		return err
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell %s: %w", p.Job.Name, err)
	}
	return nil
}

// Order is [Process.Tell], and waits until it is so.
func (p *Process) Order(callers int) error {
	if err := p.Tell(callers); err != nil {
		return err
	}
	return p.Await(10*time.Second, fmt.Sprint(callers, " callers"), func(s Status) bool { return s.Callers == callers })
}

// Leave has the worker end of its own accord, and returns its error.
func (p *Process) Leave(within time.Duration) error {
	p.stdin.Close()
	if err := p.Ended(within); err != nil {
		return fmt.Errorf("%s: leave: %w\n%s", p.Job.Name, err, p.LastWords())
	}
	return nil
}

// Kill ends the process as kill -9 does, and returns when it has ended.
// One that is gone already is left at that.
func (p *Process) Kill() error {
	p.mu.Lock()
	if p.over() {
		p.mu.Unlock()
		return nil
	}
	p.killed = true
	p.mu.Unlock()
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := p.Ended(10 * time.Second); err != nil {
		return err
	}
	p.stdin.Close()
	return nil
}

// kill is Kill for those that may be gone, or not yet there.
func (p *Process) kill() {
	if p.over() {
		return
	}
	p.Kill()             //nolint:errcheck // see below
	p.cmd.Process.Kill() //nolint:errcheck // what runs the worker
}

// Pause stops the process until [Process.Resume].
func (p *Process) Pause() error {
	p.mu.Lock()
	p.paused = true
	p.mu.Unlock()
	return p.signal(syscall.SIGSTOP)
}

// Resume lets the process go on.
func (p *Process) Resume() error {
	p.mu.Lock()
	p.paused = false
	p.mu.Unlock()
	return p.signal(syscall.SIGCONT)
}

// signal reaches the worker itself, not what runs it.
func (p *Process) signal(sig syscall.Signal) error {
	pid := p.Status().PID
	if pid == 0 {
		pid = p.cmd.Process.Pid
	}
	if p.over() {
		return nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%v to %s: %w", sig, p.Job.Name, err)
	}
	return nil
}

// LastWords is the end of the worker's log.
func (p *Process) LastWords() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}
