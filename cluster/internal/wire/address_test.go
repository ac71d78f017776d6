package wire

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// routes is a host with several interfaces.
type routes struct {
	Network
	names   map[string][]string
	sources map[string]string // by destination, host:port
	addrs   []string          // of its interfaces
}

func (r routes) LookupHost(_ context.Context, host string) ([]string, error) {
	if ips := r.names[host]; ips != nil {
		return ips, nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return nil, errors.New("no such host")
	}
	return []string{host}, nil
}

func (r routes) Source(addr string) (netip.Addr, error) {
	if s := r.sources[addr]; s != "" {
		return netip.MustParseAddr(s), nil
	}
	return netip.Addr{}, errors.New("network is unreachable")
}

func (r routes) Addrs() (addrs []netip.Addr, err error) {
	for _, s := range r.addrs {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, nil
}

// Without Advertise, a node advertises the address of the network on which the others
// are.
func TestDefaultOfTheAdvertisedAddress(t *testing.T) {
	host := routes{
		names: map[string][]string{
			"h1": {"10.2.0.1"}, "self": {"127.0.0.1"}, "workers": {"10.1.0.3", "10.1.0.2"}, "v6": {"2001:db8::9"},
		},
		sources: map[string]string{
			"10.2.0.1:7946": "10.2.0.5", "127.0.0.1:7946": "127.0.0.1", "10.1.0.2:7946": "10.1.0.5", "10.1.0.3:7946": "10.3.0.5",
			"[2001:db8::9]:7946": "2001:db8::5", "203.0.113.1:7946": "198.51.100.5",
		},
		addrs: []string{"127.0.0.1", "172.17.0.1", "10.2.0.5", "fe80::1", "2001:db8::5"},
	}
	for _, tt := range []struct {
		name  string
		bound string
		join  []string
		want  string
	}{
		{"the bound address", "10.2.0.9:7946", []string{"10.1.0.2:7946"}, "10.2.0.9:7946"},
		{"towards the first of Join", "[::]:7946", []string{"h1:7946", "10.1.0.2:7946"}, "10.2.0.5:7946"},
		{"towards its smallest address", "[::]:7946", []string{"workers:7946"}, "10.1.0.5:7946"},
		{"public", "[::]:7946", []string{"203.0.113.1:7946"}, "198.51.100.5:7946"},
		{"IPv6", "[::]:7946", []string{"v6:7946"}, "[2001:db8::5]:7946"},
		{"the first is unresolved", "[::]:7946", []string{"nosuch:7946", "h1:7946"}, "10.2.0.5:7946"},
		{"the first has no route", "[::]:7946", []string{"203.0.113.9:7946", "h1:7946"}, "10.2.0.5:7946"},
		{"the first is this host", "[::]:7946", []string{"self:7946", "h1:7946"}, "10.2.0.5:7946"},
		{"IPv4 only", "0.0.0.0:7946", []string{"v6:7946", "h1:7946"}, "10.2.0.5:7946"},
		{"no Join", "[::]:7946", nil, "172.17.0.1:7946"},
	} {
		got, err := advertised(Config{Network: host, Join: tt.join}, tt.bound)
		require.NoError(t, err, tt.name)
		assert.Equal(t, tt.want, got, tt.name)
	}

	host.sources["192.0.2.1:7946"] = "10.4.0.5"
	got, err := advertised(Config{Network: host}, "[::]:7946")
	require.NoError(t, err)
	assert.Equal(t, "10.4.0.5:7946", got, "the interface of the default route")
	delete(host.sources, "192.0.2.1:7946")
	host.addrs = []string{"127.0.0.1", "::1", "fe80::1"}
	_, err = advertised(Config{Network: host}, "[::]:7946")
	assert.EqualError(t, err, "bind [::]:7946: this host has no address at which others could reach it: set Advertise to one")
	host.addrs = append(host.addrs, "2001:db8::5")
	got, err = advertised(Config{Network: host}, "[::]:7946")
	require.NoError(t, err)
	assert.Equal(t, "[2001:db8::5]:7946", got, "a public address is better than none")
	_, err = advertised(Config{Network: host}, "0.0.0.0:7946")
	assert.ErrorContains(t, err, "set Advertise", "nobody can reach IPv6 there")
}

// The operating system chooses a source address without sending a packet.
func TestSourceOfTheLoopbackInterface(t *testing.T) {
	ip, err := System.Source("127.0.0.1:1")
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1", ip.String())
	all, err := System.Addrs()
	require.NoError(t, err)
	assert.Contains(t, all, ip)
}

func TestProbeTellsWhoAnswers(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		cfg := at(1).config("a")
		cfg.Hello = func() Hello { return Hello{Cluster: "ours", Node: "one"} }
		var strict error
		cfg.Admit = func(Kind, Hello) error { return strict }
		one := open(t, cfg)
		two := open(t, at(2).config("a"))
		for _, p := range []*Port{two, one} { // the second one asks itself
			hello, err := p.Probe(t.Context(), one.Addr())
			require.NoError(t, err)
			assert.Equal(t, Hello{Cluster: "ours", Node: "one", Addr: one.Addr()}, hello)
		}
		strict = errors.New("not you")
		_, err := two.Probe(t.Context(), one.Addr())
		var refused *RefusedError
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, Hello{Cluster: "ours", Node: "one", Addr: one.Addr()}, refused.Peer)
		one.Close()
		_, err = two.Probe(t.Context(), one.Addr())
		assert.Error(t, err)
	})
}
