package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/choked/choked/internal/testkit/history"
	"github.com/choked/choked/internal/testkit/ports"
)

// fleet is the worker processes. What they say comes as events; the fleet's
// methods and the processes' fields belong to the one who receives those.
type fleet struct {
	options
	dir      string // of the records
	prompts  string // file of the text to send; "": built in
	addrs    []string
	secret   string
	url      string // of the provider
	storeURL string // of the service behind the store, if there is one
	logs     io.Writer
	events   chan event
	slots    []*process // the present, or last, one of each worker
	files    []*history.Reader
	heard    sync.WaitGroup // those who listen to a process
}

// process is one incarnation of a worker.
type process struct {
	slot, incarnation int
	name              string
	status            status
	killed, ended     bool
	cmd               *exec.Cmd
	stdin             io.WriteCloser
}

// event is a status of a process, or its end. Each process ends once, and after
// all else that it has to say.
type event struct {
	of     *process
	status *status
	ended  bool
	err    error // of the end; nil if its status was 0
}

// newFleet prepares what the workers need. Nothing is started.
func newFleet(o options, url, storeURL string, logs io.Writer) (*fleet, error) {
	addrs, err := ports.Free(o.workers)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "choked-demo-")
	if err != nil {
		return nil, err
	}
	f := &fleet{options: o, dir: dir, addrs: addrs, secret: rand.Text(), url: url, storeURL: storeURL, logs: logs,
		events: make(chan event), slots: make([]*process, o.workers)}
	if o.promptFile != "" {
		// What the workers read is what was checked, even if the file is a pipe, or
		// becomes another before one of them is started again.
		f.prompts = filepath.Join(dir, "prompts")
		if err := os.WriteFile(f.prompts, []byte(o.text), 0o600); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	return f, nil
}

// start starts the next process of a slot. An event tells its end, so events
// have to be received until all that were started have ended.
func (f *fleet) start(slot int) error {
	p := &process{slot: slot, incarnation: 1, name: fmt.Sprintf("worker-%d", slot+1)}
	if old := f.slots[slot]; old != nil {
		p.incarnation = old.incarnation + 1
	}
	records := filepath.Join(f.dir, fmt.Sprintf("%s.%d", p.name, p.incarnation))
	w, err := history.Open(records)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	r, err := history.Follow(records)
	if err != nil {
		return err
	}
	f.files = append(f.files, r)

	share, err := shareOf(f.options)
	if err != nil {
		return err
	}
	seeds := f.addrs[:min(len(f.addrs), 3)] // few suffice, and the first founds the cluster
	voters := 1
	if f.workers >= 3 {
		voters = 3
	}
	line, err := json.Marshal(job{
		Name: p.name, Slot: slot, Incarnation: p.incarnation, Provider: f.url, Limits: share, Callers: f.callers,
		Bias: f.bias, Prompts: f.prompts, Records: records, Verbose: f.verbose,
		Store: f.store, StoreURL: f.storeURL, Bind: f.addrs[slot], Secret: f.secret, Join: seeds, Voters: voters,
	})
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(program, p.name) // the argument is for those who list processes
	p.cmd.Env = append(os.Environ(), workerEnv+"=1")
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	f.slots[slot] = p
	f.heard.Go(func() { f.listen(p, stdout, stderr) }) // ends with the process
	// A process that is gone already says so by its end.
	p.stdin.Write(append(line, '\n'))
	return nil
}

// listen turns what a process says into events.
func (f *fleet) listen(p *process, stdout, stderr io.Reader) {
	var last string
	var logged sync.WaitGroup
	logged.Go(func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			last = lines.Text()
			if f.verbose {
				fmt.Fprintf(f.logs, "%s| %s\n", p.name, last)
			}
		}
		io.Copy(io.Discard, stderr)
	})
	statuses := json.NewDecoder(stdout)
	for {
		var s status
		if statuses.Decode(&s) != nil {
			break
		}
		f.events <- event{of: p, status: &s}
	}
	io.Copy(io.Discard, stdout)
	logged.Wait()
	err := p.cmd.Wait()
	if err != nil && last != "" {
		err = fmt.Errorf("%w: %.500s", err, last)
	}
	f.events <- event{of: p, ended: true, err: err}
}

// begin lets the callers of p send.
func (f *fleet) begin(p *process) { io.WriteString(p.stdin, "begin\n") }

// stop asks all processes to end.
func (f *fleet) stop() {
	for _, p := range f.slots {
		if p != nil {
			p.stdin.Close()
		}
	}
}

// kill ends p as kill -9 does.
func (f *fleet) kill(p *process) error {
	p.killed = true
	return p.cmd.Process.Kill()
}

// running returns how many processes have not ended.
func (f *fleet) running() (n int) {
	for _, p := range f.slots {
		if p != nil && !p.ended {
			n++
		}
	}
	return n
}

// read appends to rs what was recorded since the last call.
func (f *fleet) read(rs []history.Record) ([]history.Record, error) {
	for _, r := range f.files {
		var err error
		if rs, err = r.Next(rs); err != nil {
			return rs, err
		}
	}
	return rs, nil
}

// close removes what was recorded, and what was for the workers to read. All
// processes have ended.
func (f *fleet) close() {
	f.heard.Wait()
	for _, r := range f.files {
		r.Close()
	}
	os.RemoveAll(f.dir)
}
