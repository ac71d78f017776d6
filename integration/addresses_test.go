//go:build linux

package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
)

// hosts is a set of network namespaces, each a host, with an interface on each of some
// networks.
type hosts struct {
	t    *testing.T
	name string
	n    int
}

// newHosts makes n hosts. The namespaces are deleted when the test ends.
func newHosts(t *testing.T, n int) *hosts {
	t.Helper()
	h := &hosts{t: t, name: fmt.Sprintf("choked-%08x", rand.Uint32()), n: n}
	t.Cleanup(func() {
		for i := range n + 1 {
			assert.NoError(t, exec.Command("ip", "netns", "del", h.space(i)).Run())
			assert.NoError(t, os.RemoveAll(filepath.Join("/etc/netns", h.space(i))))
		}
	})
	for i := range n + 1 { // the first one is the switch
		h.run("ip netns add %s", h.space(i))
		h.in(i, "ip link set lo up")
		require.NoError(t, os.MkdirAll(filepath.Join("/etc/netns", h.space(i)), 0o755))
		h.names(i)
	}
	return h
}

func (h *hosts) space(i int) string { return fmt.Sprintf("%s-%d", h.name, i) }

func (h *hosts) run(format string, args ...any) {
	h.t.Helper()
	line := strings.Fields(fmt.Sprintf(format, args...))
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	require.NoError(h.t, err, "%v: %s", line, out)
}

// in runs a command on host i, from 1 to n.
func (h *hosts) in(i int, format string, args ...any) {
	h.t.Helper()
	h.run("ip netns exec %s %s", h.space(i), fmt.Sprintf(format, args...))
}

// network connects all hosts by their interfaces of a name. Host i has the address that
// results from the format, with a prefix length. If broken is set, no frame passes.
func (h *hosts) network(name, format string, broken bool) {
	h.t.Helper()
	h.in(0, "ip link add %s type bridge", name)
	if !broken {
		h.in(0, "ip link set %s up", name)
	}
	for i := 1; i <= h.n; i++ {
		h.in(0, "ip link add %s-%d type veth peer name %s netns %s", name, i, name, h.space(i))
		h.in(0, "ip link set %s-%d master %s up", name, i, name)
		h.in(i, "ip link set %s up", name)
		h.address(i, name, fmt.Sprintf(format, i))
	}
}

// address gives an interface of host i one more address.
func (h *hosts) address(i int, link, address string) {
	h.t.Helper()
	nodad := ""
	if strings.Contains(address, ":") { // usable at once
		nodad = "nodad"
	}
	h.in(i, "ip addr add %s dev %s %s", address, link, nodad)
}

// names sets the lines of /etc/hosts of host i, in place: the file is mounted there.
func (h *hosts) names(i int, lines ...string) {
	h.t.Helper()
	dir := filepath.Join("/etc/netns", h.space(i))
	require.NoError(h.t, os.WriteFile(filepath.Join(dir, "hosts"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	require.NoError(h.t, os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644))
}

// all sets the same lines for all hosts.
func (h *hosts) all(lines ...string) {
	for i := 1; i <= h.n; i++ {
		h.names(i, lines...)
	}
}

// translate sets rules by which host i changes the destinations of its traffic.
func (h *hosts) translate(i int, rules string) {
	h.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", h.space(i), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("table ip virtual {\nchain out {\ntype nat hook output priority -100; policy accept;\n" + rules + "\n}\n}\n")
	out, err := cmd.CombinedOutput()
	require.NoError(h.t, err, "%s: %s", rules, out)
}

// situation is hosts, what they are told, and what comes of it.
type situation struct {
	hosts     int
	start     []int // hosts whose nodes start; none: all of them
	prepare   func(h *hosts)
	join      []string
	advertise string
	expect    int
	later     func(h *hosts) // after all have started
	from      time.Duration  // by which the 10 s begin later: names are cached for 5 s
	want      []string       // in the reason why there is no cluster; none: there is one
}

// always are the situations that each run of all tests includes.
var always = []string{
	"one node, localhost", "names on the second network", "a virtual address of all nodes", "public IPv6 addresses only",
	"one name that leads each host to itself at first", "first host down",
}

// situations are the addresses of everyday networks.
var situations = map[string]situation{
	"one node, localhost": {hosts: 1, prepare: plain, join: []string{"localhost:7946"}},
	"one node, loopback":  {hosts: 1, prepare: plain, join: []string{"127.0.0.1:7946"}},
	"one node, name of its host": {hosts: 1, join: []string{"h1:7946"}, prepare: func(h *hosts) {
		plain(h)
		h.names(1, "127.0.1.1 h1")
	}},
	"names on the second network": {hosts: 3, join: list123, prepare: func(h *hosts) {
		h.network("eth0", "10.77.0.%d/24", false)
		h.network("eth1", "10.78.0.%d/24", false)
		for i := 1; i <= 3; i++ {
			h.in(i, "ip route add default via 10.77.0.254")
		}
		h.all("10.78.0.1 h1", "10.78.0.2 h2", "10.78.0.3 h3")
	}},
	"names on the second network, the first is broken": {hosts: 3, join: list123, prepare: func(h *hosts) {
		h.network("eth0", "10.77.0.%d/24", true)
		h.network("eth1", "10.78.0.%d/24", false)
		for i := 1; i <= 3; i++ {
			h.in(i, "ip route add default via 10.77.0.254")
		}
		h.all("10.78.0.1 h1", "10.78.0.2 h2", "10.78.0.3 h3")
	}},
	"the same bridge on each host, no default route": {hosts: 3, join: []string{"10.77.0.1:7946", "10.77.0.2:7946", "10.77.0.3:7946"}, prepare: func(h *hosts) {
		for i := 1; i <= 3; i++ {
			h.in(i, "ip link add docker0 type bridge")
			h.in(i, "ip link set docker0 up")
			h.address(i, "docker0", "172.17.0.1/16")
		}
		h.network("eth0", "10.77.0.%d/24", false)
	}},
	"a virtual address of one node": {hosts: 3, join: []string{"10.99.0.1:7946"}, prepare: func(h *hosts) {
		plain(h)
		for i := 1; i <= 3; i++ {
			h.in(i, "ip route add 10.99.0.0/24 dev eth0")
			h.translate(i, "ip daddr 10.99.0.1 dnat to 10.77.0.2")
		}
	}},
	"a virtual address of all nodes": {hosts: 3, join: []string{"workers:7946"}, prepare: func(h *hosts) {
		plain(h)
		h.all("10.99.0.1 workers")
		for i := 1; i <= 3; i++ {
			h.in(i, "ip route add 10.99.0.0/24 dev eth0")
			h.translate(i, "ip daddr 10.99.0.1 dnat to numgen random mod 3 map { 0 : 10.77.0.1, 1 : 10.77.0.2, 2 : 10.77.0.3 }")
		}
	}},
	"a translated address of each node": {hosts: 3, join: []string{"10.99.0.1:7946", "10.99.0.2:7946", "10.99.0.3:7946"}, prepare: func(h *hosts) {
		plain(h)
		for i := 1; i <= 3; i++ {
			h.in(i, "ip route add 10.99.0.0/24 dev eth0")
			h.translate(i, "dnat to ip daddr map { 10.99.0.1 : 10.77.0.3, 10.99.0.2 : 10.77.0.1, 10.99.0.3 : 10.77.0.2 }")
		}
	}},
	"private IPv6 addresses only": {hosts: 3, join: list123, prepare: func(h *hosts) {
		h.network("eth0", "fd77::%d/64", false)
		h.all("fd77::1 h1", "fd77::2 h2", "fd77::3 h3")
	}},
	"public IPv6 addresses only": {hosts: 3, join: []string{"[2001:db8:77::1]:7946", "[2001:db8:77::2]:7946", "[2001:db8:77::3]:7946"}, prepare: func(h *hosts) {
		h.network("eth0", "2001:db8:77::%d/64", false)
	}},
	"public IPv4 addresses only": {hosts: 3, join: []string{"198.51.100.1:7946", "198.51.100.2:7946", "198.51.100.3:7946"}, prepare: func(h *hosts) {
		h.network("eth0", "198.51.100.%d/24", false)
	}},
	"both versions of IP behind each name": {hosts: 3, join: list123, prepare: func(h *hosts) {
		plain(h)
		for i := 1; i <= 3; i++ {
			h.address(i, "eth0", fmt.Sprintf("fd77::%d/64", i))
		}
		h.all("10.77.0.1 h1", "fd77::1 h1", "10.77.0.2 h2", "fd77::2 h2", "10.77.0.3 h3", "fd77::3 h3")
	}},
	"the name of a host leads to its loopback interface there": {hosts: 3, join: list123, prepare: func(h *hosts) {
		plain(h)
		for i := 1; i <= 3; i++ {
			lines := []string{fmt.Sprintf("127.0.1.1 h%d", i)}
			for j := 1; j <= 3; j++ {
				if i != j {
					lines = append(lines, fmt.Sprintf("10.77.0.%d h%d", j, j))
				}
			}
			h.names(i, lines...)
		}
	}},
	"names that come late": {
		hosts: 3, join: list123, prepare: plain, from: 5 * time.Second,
		later: func(h *hosts) {
			time.Sleep(3 * time.Second)
			h.all("10.77.0.1 h1", "10.77.0.2 h2", "10.77.0.3 h3")
		},
	},
	"names that are wrong at first": {
		hosts: 3, join: list123, from: 5 * time.Second,
		prepare: func(h *hosts) {
			plain(h)
			h.all("10.77.0.200 h1", "10.77.0.201 h2", "10.77.0.202 h3")
		},
		later: func(h *hosts) {
			time.Sleep(3 * time.Second)
			h.all("10.77.0.1 h1", "10.77.0.2 h2", "10.77.0.3 h3")
		},
	},
	"names that lead each host to itself at first": {
		hosts: 3, join: list123, from: 5 * time.Second,
		prepare: func(h *hosts) {
			plain(h)
			for i := 1; i <= 3; i++ {
				h.names(i, fmt.Sprintf("10.77.0.%d h1 h2 h3", i))
			}
		},
		later: func(h *hosts) {
			time.Sleep(3 * time.Second)
			h.all("10.77.0.1 h1", "10.77.0.2 h2", "10.77.0.3 h3")
		},
	},
	"one name that leads each host to itself at first": {
		hosts: 3, join: []string{"workers:7946"}, expect: 3, from: 5 * time.Second,
		prepare: func(h *hosts) {
			plain(h)
			for i := 1; i <= 3; i++ {
				h.names(i, fmt.Sprintf("10.77.0.%d workers", i))
			}
		},
		later: func(h *hosts) {
			time.Sleep(6 * time.Second)
			h.all("10.77.0.1 workers", "10.77.0.2 workers", "10.77.0.3 workers")
		},
	},
	"three clusters, since one name leads each host to itself at first": {
		hosts: 3, join: []string{"workers:7946"}, from: 5 * time.Second,
		prepare: func(h *hosts) {
			plain(h)
			for i := 1; i <= 3; i++ {
				h.names(i, fmt.Sprintf("10.77.0.%d workers", i))
			}
		},
		later: func(h *hosts) {
			time.Sleep(6 * time.Second)
			h.all("10.77.0.1 workers", "10.77.0.2 workers", "10.77.0.3 workers")
		},
	},
	"first host down": {
		hosts: 3, start: []int{2, 3}, prepare: plain, join: []string{"10.77.0.1:7946", "10.77.0.2:7946", "10.77.0.3:7946"},
		want: []string{"the first of Join, 10.77.0.1:7946: connect: connection refused", "at 10.77.0.2:7946", "at 10.77.0.3:7946"},
	},
	"first host vanished": {
		hosts: 2, prepare: plain, join: []string{"10.77.0.200:7946", "10.77.0.1:7946", "10.77.0.2:7946"},
		want: []string{"the first of Join, 10.77.0.200:7946: ", "at 10.77.0.1:7946", "at 10.77.0.2:7946"},
	},
	"first host down, two expected": {
		hosts: 3, start: []int{2, 3}, prepare: plain, join: []string{"10.77.0.1:7946", "10.77.0.2:7946", "10.77.0.3:7946"}, expect: 2,
	},
	"unknown name": {
		hosts: 2, prepare: plain, join: []string{"h1:7946", "h2:7946"},
		want: []string{"the first of Join, h1:7946, has no address: lookup h1"},
	},
	"a virtual address, and one node": {
		hosts: 1, join: []string{"10.99.0.1:7946"},
		prepare: func(h *hosts) {
			plain(h)
			h.in(1, "ip route add 10.99.0.0/24 dev eth0")
			h.translate(1, "ip daddr 10.99.0.1 dnat to 10.77.0.1")
		},
		want: []string{"leads to this node by 10.99.0.1:7946, which is no address of this host", "or to 1 if there are no others"},
	},
	"one address advertised by all": {
		hosts: 2, prepare: plain, join: []string{"10.77.0.1:7946", "10.77.0.2:7946"}, advertise: "172.17.0.1:7946",
		want: []string{"both advertise 172.17.0.1:7946: set Advertise"},
	},
}

var list123 = []string{"h1:7946", "h2:7946", "h3:7946"}

// plain is one private network.
func plain(h *hosts) { h.network("eth0", "10.77.0.%d/24", false) }

// In each situation all nodes are of one cluster within 10 s, or Health and the error
// of calls name the cause within 5 s.
func TestAddressesOfEverydayNetworks(t *testing.T) {
	need(t, fleet.NeedsForNetwork())
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, name := range always {
		require.Contains(t, situations, name)
	}
	for name, s := range situations {
		t.Run(name, func(t *testing.T) {
			if !slices.Contains(always, name) {
				long(t)
			}
			f := begin(t, s.hosts) // in parallel
			h := newHosts(t, s.hosts)
			s.prepare(h)
			f.Seeds = s.join
			start := s.start
			for i := 1; len(s.start) == 0 && i <= s.hosts; i++ {
				start = append(start, i)
			}
			t.Cleanup(f.KillAll) // before the namespaces are deleted
			for _, i := range start {
				_, err := f.Start(i-1, func(j *fleet.Job) {
					j.Bind, j.Dir, j.Advertise, j.Expect = ":7946", "", s.advertise, s.expect
				}, "ip", "netns", "exec", h.space(i))
				require.NoError(t, err)
			}
			if s.later != nil {
				s.later(h)
			}
			if s.want == nil {
				oneCluster(t, f, start, s.from+allowed(10*time.Second, lateIn(f, start)))
				return
			}
			for _, i := range start {
				p := f.Slot(i - 1)
				named := func(text string) bool {
					for _, want := range s.want {
						if !strings.Contains(text, want) {
							return false
						}
					}
					return true
				}
				require.NoError(t, p.Await(allowed(5*time.Second, lateIn(f, start)), "names the cause", func(st fleet.Status) bool {
					return named(st.Health)
				}))
				require.NoError(t, p.Await(5*time.Second, "calls name the cause", func(st fleet.Status) bool { return named(st.Error) }))
			}
		})
	}
}

// lateIn returns by how much the processes were late so far.
func lateIn(f *fleet.Fleet, slots []int) (late time.Duration) {
	for _, i := range slots {
		late = max(late, f.Slot(i-1).Status().Late)
	}
	return late
}

// oneCluster fails unless the nodes are of one cluster in time, with calls admitted on
// all of them.
func oneCluster(t *testing.T, f *fleet.Fleet, slots []int, within time.Duration) {
	t.Helper()
	until := time.Now().Add(within)
	leaders := make(map[string]bool)
	var errs []error
	for _, i := range slots {
		p := f.Slot(i - 1)
		errs = append(errs, p.Await(max(time.Until(until), 0), "is of one cluster", func(s fleet.Status) bool {
			return s.Health == "" && s.Leader != "" && len(s.Members) == len(slots) && s.Sent > 0
		}))
		leaders[p.Status().Leader] = true
	}
	require.NoError(t, errors.Join(errs...))
	require.Len(t, leaders, 1, "leaders")
	t.Logf("one cluster with %v to spare", time.Until(until))
}

// Of two workers that keep nothing the voter is killed and returns. They are of one
// cluster again within 10 s.
func TestTwoWorkersInMemory(t *testing.T) {
	f := begin(t, 2)
	inMemory := func(j *fleet.Job) { j.Dir = "" }
	require.NoError(t, f.StartAll(inMemory))
	require.NoError(t, f.AwaitServed(30*time.Second, 5))
	for range 2 {
		leader, err := f.AwaitLeader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, leader.Kill())
		_, err = f.Start(leader.Job.Slot, inMemory)
		require.NoError(t, err)
		began := time.Now()
		oneCluster(t, f, []int{1, 2}, allowed(10*time.Second, lateIn(f, []int{1, 2})))
		t.Logf("one cluster after %v", time.Since(began))
		require.NoError(t, f.AwaitServed(10*time.Second, 5))
	}
}
