package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/choked/choked/cluster/internal/wire"
	"github.com/choked/choked/internal/boottime"
)

// Config configures a [Node]. The zero value is a node that founds a cluster of
// its own on a loopback address and keeps all state in memory.
type Config struct {
	// Name identifies the node to people, in logs and in [Node.Members]: 1 to 64
	// letters, digits, dots, dashes and underscores. It need not be unique.
	// Default: the host name, or "worker" if that has another form.
	Name string

	// Bind is the host:port to listen on, over TCP and UDP. Port 0 takes any free
	// port. Default: ":7946", or "127.0.0.1:7946" without a Secret.
	Bind string

	// Advertise is the host:port at which other nodes reach this one. The brackets
	// around an IPv6 address may be missing, as in "fd00::1:7946". Default: the
	// address of Bind or, if its host is unspecified, the address from which traffic
	// to the first of Join leaves this machine. If there is none, it is a private
	// address of this machine, or else any that other machines can reach.
	Advertise string

	// Join lists host:port of any nodes, at most 1000 entries, and is the same on
	// all nodes. A DNS name stands for all its addresses. The node that answers at
	// the first entry is the founder, whatever address it advertises itself: it
	// founds the cluster once it has reached more than half of the list for 2 s; no
	// other node does. Of a name with several addresses, the smallest counts at which
	// a node answers. Behind a virtual address, which leads to any of the nodes, the
	// founder is the one with the smallest id; a node that reaches itself alone there
	// founds no cluster.
	// If a cluster is still running without any node of the list, its voters,
	// which dial the list every 500 ms, must reach one of its nodes within these
	// 2 s. Otherwise there are two clusters, and each admits the full limits until
	// they reach each other: then the younger one gives way. Its members without Dir
	// join the older one, and its members with Dir stop deciding until Dir is emptied.
	// Default: empty, and the node founds a cluster by itself.
	Join []string

	// Expect is the number of members that must be known before a cluster is founded,
	// this node included. Set it, to the same number on all nodes, if Join is one DNS
	// name or a virtual address: a name may stand for one node first and for the
	// others later, and each would found a cluster of its own. With Expect, and if more
	// than half of a list of nodes can be reached, the first of the list may be down.
	// Default: 0, and the founder does not count the members.
	Expect int

	// Secret authenticates the nodes to each other and encrypts their traffic. A
	// process that knows it is trusted with the whole cluster. A secret of fewer than
	// 16 bytes is logged as a warning. Default: empty, and only loopback addresses
	// can be bound.
	Secret string

	// PreviousSecrets are accepted from other nodes in addition to Secret. To
	// change the secret of a running cluster, first give every node the new Secret
	// with the old one here, then drop the old one. Default: none.
	PreviousSecrets []string

	// Dir is the directory of the Raft log, the snapshots and the node's id. It
	// belongs to one node: of two nodes with copies of it, the later one steps out
	// when they reach each other, see [Node.Health]. Its files are readable by their owner only. It takes at
	// most 20 MB while a snapshot of all buckets has less than 1 MB, and at most
	// 10 MB and 9 times the size of a snapshot otherwise. 4 MB of these are a
	// reserve, which is given up when the disk is full. A node whose disk is full
	// nevertheless takes no part in Raft until the disk has room again. Default:
	// empty, and all of that is kept in memory; the node has a new id each time it
	// starts.
	Dir string

	// Recover makes this node found a new cluster with the state in its Dir, if that
	// is a voter's and the other voters are gone for good: they crashed without a
	// Dir, or their Dirs are lost. What was spent stays spent, as far as this node
	// knew. It is for one start, of one node: Start waits 10 s, and does not recover
	// if the old cluster has a leader, and fails if another node keeps the state as
	// well. Voters of the old cluster that return are refused. If Recover is still set
	// at later starts, it has no effect.
	Recover bool

	// ColdStart is the level at which buckets start in a new cluster, and in one
	// whose voters have all lost their state. It must be the same on all nodes.
	// Default: [Full].
	ColdStart ColdStart

	// Voters is the number of nodes that keep the Raft log and vote: 1, 3 or 5.
	// The other nodes are clients of the leader. Default: 3.
	Voters int

	// Timeout is how long an operation waits for a decision while no leader can be
	// reached, before it fails with an error that wraps ErrNoQuorum, and so
	// ErrUnavailable. Default: 5 s.
	Timeout time.Duration

	// Logger receives events: members, leaders, failures. Default: nil, and they
	// are discarded.
	Logger *slog.Logger

	network wire.Network    // nil: the operating system's
	clock   *boottime.Clock // nil: the true time
	noSync  bool            // do not fsync: the log survives a crash of the process, but not of the machine

	diskFault func() error // error of the next write to Dir; nil: none is injected
}

// minSecret is the number of bytes below which a secret is a reason for a warning.
const minSecret = 16

// ColdStart is the level at which buckets start if their state is unknown: [Full]
// or [Empty].
type ColdStart int

const (
	// Full buckets admit calls at once. Quota that was spent just before the state
	// was lost can be spent again: at most one burst for each key.
	Full ColdStart = iota
	// Empty buckets never admit more than the limits, even after a loss of all
	// state. In a new cluster the first calls wait for the refill.
	Empty
)

// MarshalText implements [encoding.TextMarshaler].
func (s ColdStart) MarshalText() ([]byte, error) {
	switch s {
	case Full:
		return []byte("full"), nil
	case Empty:
		return []byte("empty"), nil
	}
	return nil, fmt.Errorf("cold start %d: want Full or Empty", int(s))
}

// UnmarshalText implements [encoding.TextUnmarshaler]: "full" or "empty".
func (s *ColdStart) UnmarshalText(text []byte) error {
	switch string(text) {
	case "full":
		*s = Full
	case "empty":
		*s = Empty
	default:
		return fmt.Errorf("cold start %.20q: want full or empty", text)
	}
	return nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// withDefaults returns cfg with its defaults filled in, or an error that names the
// first field that is not valid.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil || !nameForm.MatchString(host) {
			host = "worker"
		}
		cfg.Name = host
	}
	cfg.Advertise = withBrackets(cfg.Advertise)
	switch {
	case cfg.Bind != "":
	case cfg.Secret == "":
		cfg.Bind = "127.0.0.1:7946"
	default:
		cfg.Bind = ":7946"
	}
	if cfg.Voters == 0 {
		cfg.Voters = 3
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.network == nil {
		cfg.network = wire.System
	}
	if cfg.clock == nil {
		cfg.clock = boottime.New()
	}
	return cfg, cfg.check()
}

// check returns an error that names the first field that is not valid.
func (cfg Config) check() error {
	if !nameForm.MatchString(cfg.Name) {
		return fmt.Errorf("name %.80q: want up to 64 letters, digits, dots, dashes or underscores", cfg.Name)
	}
	if err := checkAddr(cfg.Bind, true); err != nil {
		return fmt.Errorf("bind %.80q: %w", cfg.Bind, err)
	}
	if cfg.Advertise != "" {
		if err := checkAddr(cfg.Advertise, false); err != nil {
			return fmt.Errorf("advertise %.80q: %w", cfg.Advertise, err)
		}
	}
	if len(cfg.Join) > 1000 {
		return fmt.Errorf("join %d addresses: want at most 1000, or a DNS name for them", len(cfg.Join))
	}
	for _, addr := range cfg.Join {
		if err := checkAddr(addr, false); err != nil {
			return fmt.Errorf("join %.80q: %w", addr, err)
		}
	}
	if _, err := cfg.ColdStart.MarshalText(); err != nil {
		return err
	}
	if cfg.Voters != 1 && cfg.Voters != 3 && cfg.Voters != 5 {
		return fmt.Errorf("%d voters: want 1, 3 or 5", cfg.Voters)
	}
	if cfg.Expect < 0 || cfg.Expect > 1000 {
		return fmt.Errorf("expect %d members: want 0 to 1000", cfg.Expect)
	}
	if cfg.Recover && cfg.Dir == "" {
		return errors.New("recover without a dir: want the Dir of a voter")
	}
	if cfg.Timeout < 0 {
		return fmt.Errorf("timeout %v: want more than 0", cfg.Timeout)
	}
	return nil
}

// withBrackets returns an IPv6 address and a port with the brackets that divide them,
// since a template such as "$(POD_IP):7946" cannot add them for IPv6 alone. It returns
// anything else as it is, also what may be an address without a port: one that ends in
// a group of zeros before the last colon.
func withBrackets(s string) string {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasPrefix(s, "[") {
		return s
	}
	ip, err := netip.ParseAddr(s[:i])
	if err != nil || !ip.Is6() || ip.As16()[14] == 0 && ip.As16()[15] == 0 {
		return s
	}
	return net.JoinHostPort(s[:i], s[i+1:])
}

// checkAddr returns an error unless s is host:port. An address to bind may lack
// the host, and its port may be 0.
func checkAddr(s string, bind bool) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New(`want host:port, as in "10.0.0.1:7946" or "[fd00::1]:7946"`)
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 || n == 0 && !bind {
		return fmt.Errorf("port %.20q: want a number from 1 to 65535", port)
	}
	if host == "" && !bind {
		return errors.New("no host")
	}
	return nil
}

// String describes cfg without its secrets.
func (cfg Config) String() string {
	return fmt.Sprintf("cluster.Config{Name: %q, Bind: %q, Advertise: %q, Join: %q, Dir: %q, Voters: %d}",
		cfg.Name, cfg.Bind, cfg.Advertise, cfg.Join, cfg.Dir, cfg.Voters)
}

// Format implements [fmt.Formatter], so that no verb shows the secrets.
func (cfg Config) Format(f fmt.State, _ rune) { fmt.Fprint(f, cfg.String()) }

// GoString implements [fmt.GoStringer], without the secrets.
func (cfg Config) GoString() string { return cfg.String() }

// LogValue implements [slog.LogValuer], without the secrets.
func (cfg Config) LogValue() slog.Value { return slog.StringValue(cfg.String()) }

// MarshalText implements [encoding.TextMarshaler], without the secrets, as
// encoding/json and the like do not go by Format.
func (cfg Config) MarshalText() ([]byte, error) { return []byte(cfg.String()), nil }
