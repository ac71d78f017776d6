//go:build linux

package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
)

// Network is a virtual network on this machine: each host is a network namespace,
// and a bridge in another namespace connects them. Rules drop packets between the
// hosts.
type Network struct {
	Hosts []string // addresses

	name string
}

// NeedsForNetwork returns an error that names the missing requirement of a
// [Network], or nil.
func NeedsForNetwork() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to make network namespaces")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("needs the program %s (Debian: iproute2, nftables)", program)
		}
	}
	return nil
}

// NewNetwork creates a network of n hosts.
func NewNetwork(n int) (*Network, error) {
	id := rand.Uint32()
	net := &Network{name: fmt.Sprintf("choked-%08x", id)}
	hub := net.name + "-hub"
	var b strings.Builder
	fmt.Fprintf(&b, "netns add %s\n-n %s link add hub type bridge\n-n %s link set hub up\n", hub, hub, hub)
	for i := range n {
		net.Hosts = append(net.Hosts, fmt.Sprintf("10.77.0.%d", i+1))
		ns := net.namespace(i)
		fmt.Fprintf(&b, "netns add %s\n", ns)
		fmt.Fprintf(&b, "-n %s link add port%d type veth peer name eth0 netns %s\n", hub, i, ns)
		fmt.Fprintf(&b, "-n %s link set port%d master hub up\n", hub, i)
		fmt.Fprintf(&b, "-n %s addr add %s/24 dev eth0\n-n %s link set eth0 up\n-n %s link set lo up\n", ns, net.Hosts[i], ns, ns)
	}
	for line := range strings.Lines(b.String()) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("ip %s: %w: %s", strings.TrimSpace(line), err, out), net.Close())
		}
	}
	for i := range n {
		if err := net.Rules(i, ""); err != nil {
			return nil, errors.Join(err, net.Close())
		}
	}
	return net, nil
}

func (n *Network) namespace(i int) string { return fmt.Sprintf("%s-%d", n.name, i+1) }

// enter returns the command that runs another command on host i.
func (n *Network) enter(i int) []string { return []string{"ip", "netns", "exec", n.namespace(i)} }

// Rules sets the rules for packets that arrive at host i, in the syntax of nft, one
// a line. Packets that no rule drops are accepted.
func (n *Network) Rules(i int, rules string) error {
	cmd := exec.Command("ip", "netns", "exec", n.namespace(i), "nft", "-f", "-")
	// Some versions of nft want a newline before each closing brace.
	cmd.Stdin = strings.NewReader(`table inet faults
delete table inet faults
table inet faults {
chain arriving {
type filter hook input priority 0; policy accept;
` + rules + `
}
}
`)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft on host %d, %q: %w: %s", i+1, rules, err, out)
	}
	return nil
}

// DropFrom drops the packets that arrive at host i from the hosts in from. Packets
// that host i sends are not affected.
func (n *Network) DropFrom(i int, from ...int) error {
	var rules strings.Builder
	for _, j := range from {
		fmt.Fprintf(&rules, "ip saddr %s drop\n", n.Hosts[j])
	}
	return n.Rules(i, rules.String())
}

// Cut drops all packets between the hosts of one side and the hosts of the other.
func (n *Network) Cut(one, other []int) error {
	var errs []error
	for _, i := range one {
		errs = append(errs, n.DropFrom(i, other...))
	}
	for _, j := range other {
		errs = append(errs, n.DropFrom(j, one...))
	}
	return errors.Join(errs...)
}

// Heal removes the rules of all hosts.
func (n *Network) Heal() error {
	var errs []error
	for i := range n.Hosts {
		errs = append(errs, n.Rules(i, ""))
	}
	return errors.Join(errs...)
}

// Close removes the network. Call it after all processes on its hosts have ended.
func (n *Network) Close() error {
	var errs []error
	for i := range len(n.Hosts) + 1 {
		ns := n.name + "-hub"
		if i < len(n.Hosts) {
			ns = n.namespace(i)
		}
		if _, err := os.Stat("/run/netns/" + ns); err != nil {
			continue
		}
		if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("ip netns del %s: %w: %s", ns, err, out))
		}
	}
	return errors.Join(errs...)
}
