package cluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/choked/choked/cluster/internal/wire"
	"github.com/choked/choked/internal/boottime"
)

// Config says how a node takes part in its cluster. The zero value is a node
// that founds a cluster of its own on loopback and keeps it in memory.
type Config struct {
	// Name is for people: in logs and in Members. Up to 64 letters, digits,
	// dots, dashes and underscores. Default: the host name.
	Name string

	// Bind is the host:port to listen on, TCP and UDP. Port 0 takes any free
	// one. Default: ":7946", or "127.0.0.1:7946" when there is no Secret.
	Bind string

	// Advertise is the host:port at which others reach this node. Default:
	// the address of Bind, or where that is unspecified, a private one of
	// this machine.
	Advertise string

	// Join is where to find the cluster: host:port of any workers, the same
	// list on all of them. A DNS name stands for all its addresses. The
	// address that comes first founds the cluster, once it has had more than
	// half of the list in reach for 2 s; nobody else ever does. In that time
	// the voters of a cluster that lives on without the seeds, which look for
	// them twice a second, have to reach one of them: else there are two
	// clusters, and each admits all of the limits. Empty: this node founds one
	// by itself.
	Join []string

	// Secret admits to the cluster: who holds it is trusted with all of it.
	// Without one, only loopback addresses can be bound.
	Secret string

	// PreviousSecrets are still accepted from others, to change the secret of
	// a running cluster: first give all nodes both, then drop the old one.
	PreviousSecrets []string

	// Dir keeps the log and the snapshots over restarts; "" keeps them in
	// memory, and a node that restarts is a new one. Not to be shared.
	Dir string

	// ColdStart says how buckets begin in a cluster that knows nothing: a new
	// one, as after the loss of all that the voters kept. The same on all nodes.
	ColdStart ColdStart

	// Voters is how many members keep the log and vote: 1, 3 or 5. The others
	// are clients of the leader. Default: 3.
	Voters int

	// QuorumTimeout is how long a request waits for a leader before it fails
	// with ErrNoQuorum. Default: 5 s.
	QuorumTimeout time.Duration

	// Logger is told of members, leaders and trouble. Nil: nobody is.
	Logger *slog.Logger

	network wire.Network    // nil: the system's
	clock   *boottime.Clock // nil: a true one
	noSync  bool            // the log survives the process, not the machine
}

// ColdStart is how buckets begin when nobody knows what was spent. [Full] or
// [Empty].
type ColdStart int

const (
	// Full buckets serve at once. What was spent just before all was lost is
	// spent once more, at most a burst of each key.
	Full ColdStart = iota
	// Empty buckets keep the promise also then. In a new cluster calls wait for
	// the refill, at first.
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

// withDefaults returns cfg with its defaults filled in, or what is wrong with it.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil || !nameForm.MatchString(host) {
			host = "worker"
		}
		cfg.Name = host
	}
	if !nameForm.MatchString(cfg.Name) {
		return cfg, fmt.Errorf("name %.80q: want up to 64 letters, digits, dots, dashes or underscores", cfg.Name)
	}
	if cfg.Bind == "" {
		cfg.Bind = ":7946"
		if cfg.Secret == "" {
			cfg.Bind = "127.0.0.1:7946"
		}
	}
	if err := checkAddr(cfg.Bind, true); err != nil {
		return cfg, fmt.Errorf("bind %.80q: %w", cfg.Bind, err)
	}
	if cfg.Advertise != "" {
		if err := checkAddr(cfg.Advertise, false); err != nil {
			return cfg, fmt.Errorf("advertise %.80q: %w", cfg.Advertise, err)
		}
	}
	if len(cfg.Join) > 1000 {
		return cfg, fmt.Errorf("join %d addresses: want at most 1000, or a DNS name for them", len(cfg.Join))
	}
	for _, addr := range cfg.Join {
		if err := checkAddr(addr, false); err != nil {
			return cfg, fmt.Errorf("join %.80q: %w", addr, err)
		}
	}
	if _, err := cfg.ColdStart.MarshalText(); err != nil {
		return cfg, err
	}
	switch cfg.Voters {
	case 0:
		cfg.Voters = 3
	case 1, 3, 5:
	default:
		return cfg, fmt.Errorf("%d voters: want 1, 3 or 5", cfg.Voters)
	}
	switch {
	case cfg.QuorumTimeout == 0:
		cfg.QuorumTimeout = 5 * time.Second
	case cfg.QuorumTimeout < 0:
		return cfg, fmt.Errorf("quorum timeout %v: want more than 0", cfg.QuorumTimeout)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.network == nil {
		cfg.network = wire.System
	}
	if cfg.clock == nil {
		cfg.clock = boottime.New()
	}
	return cfg, nil
}

// checkAddr reports why s is not host:port. A bind address may lack the host,
// and its port may be 0.
func checkAddr(s string, bind bool) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New(`want host:port, as in "10.0.0.1:7946"`)
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

// String shows cfg without its secrets.
func (cfg Config) String() string {
	return fmt.Sprintf("cluster.Config{Name: %q, Bind: %q, Advertise: %q, Join: %q, Dir: %q, Voters: %d}",
		cfg.Name, cfg.Bind, cfg.Advertise, cfg.Join, cfg.Dir, cfg.Voters)
}

// Format implements [fmt.Formatter], so that no verb shows the secrets.
func (cfg Config) Format(f fmt.State, _ rune) { fmt.Fprint(f, cfg.String()) }

// GoString is String, for those who look for it.
func (cfg Config) GoString() string { return cfg.String() }

// LogValue implements [slog.LogValuer], without the secrets.
func (cfg Config) LogValue() slog.Value { return slog.StringValue(cfg.String()) }

// MarshalText shows cfg without its secrets to encoding/json and the like.
func (cfg Config) MarshalText() ([]byte, error) { return []byte(cfg.String()), nil }
