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

// fleet starts, stops and kills the worker processes. It sends what they report
// on events; only the goroutine that receives from events may call the fleet's
// methods and use the fields of the processes.
type fleet struct {
	options
	dir       string   // directory of the admission records
	prompts   string   // file of the text to send; "": the built-in text
	addrs     []string // address of each worker's node
	secret    string   // of the cluster
	url       string   // of the provider
	storeURL  string   // of the service that the store needs; "" if it needs none
	logs      io.Writer
	events    chan event
	slots     []*process        // the latest process of each worker
	files     []*history.Reader // records of all processes, one file each
	listeners sync.WaitGroup    // goroutines in listen
}

// process is one incarnation of a worker: a worker that is started again is
// another process of the same slot.
type process struct {
	slot, incarnation int
	name              string
	status            status // the last that it reported
	killed, ended     bool
	cmd               *exec.Cmd
	stdin             io.WriteCloser
}

// event is a status reported by a process, or the end of the process. The end is
// the last event of each process.
type event struct {
	process *process
	status  *status
	ended   bool
	err     error // with ended: nil if the exit status was 0
}

// newFleet reserves the workers' addresses and writes the prompts to a file. It
// starts no process.
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
		// Workers read the text that parseFlags checked. The file itself may be a
		// pipe, or change before a worker is started again.
		f.prompts = filepath.Join(dir, "prompts")
		if err := os.WriteFile(f.prompts, []byte(o.text), 0o600); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	return f, nil
}

// start starts the next process of a slot. The caller must receive from events
// until every started process has ended.
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
	seeds := f.addrs[:min(len(f.addrs), 3)] // three seeds suffice; the first one founds the cluster
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
	p.cmd = exec.Command(program, p.name) // the argument shows the name in a list of processes
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
	f.listeners.Go(func() { f.listen(p, stdout, stderr) }) // ends with the process
	p.stdin.Write(append(line, '\n'))                      // fails only if the process has ended, which is reported as an event
	return nil
}

// listen sends an event for each status that p prints, and one when p has ended.
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
		f.events <- event{process: p, status: &s}
	}
	io.Copy(io.Discard, stdout)
	logged.Wait()
	err := p.cmd.Wait()
	if err != nil && last != "" {
		err = fmt.Errorf("%w: %.500s", err, last)
	}
	f.events <- event{process: p, ended: true, err: err}
}

// begin tells p to start its callers.
func (f *fleet) begin(p *process) { io.WriteString(p.stdin, "begin\n") }

// stop asks all processes to end, by closing their input.
func (f *fleet) stop() {
	for _, p := range f.slots {
		if p != nil {
			p.stdin.Close()
		}
	}
}

// kill sends SIGKILL to p.
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

// read appends to rs the admissions that were recorded since the last call.
func (f *fleet) read(rs []history.Record) ([]history.Record, error) {
	for _, r := range f.files {
		var err error
		if rs, err = r.Next(rs); err != nil {
			return rs, err
		}
	}
	return rs, nil
}

// close removes the directory with the records and the prompts. Call it after
// all processes have ended.
func (f *fleet) close() {
	f.listeners.Wait()
	for _, r := range f.files {
		r.Close()
	}
	os.RemoveAll(f.dir)
}
