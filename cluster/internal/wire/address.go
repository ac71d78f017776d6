package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// lookupTimeout bounds the lookup of the names in Config.Join for the default of
// Config.Advertise.
const lookupTimeout = 2 * time.Second

// advertised returns the address that other members dial. It is the first of these:
//
//  1. Config.Advertise;
//  2. the bound address, unless it is unspecified;
//  3. the address from which traffic to the first of Config.Join leaves this host, or
//     to a later one if the first has no address or leads to the loopback interface:
//     that is the network on which the members are;
//  4. the address on the interface of the default route;
//  5. any address of an interface that other hosts can reach.
func advertised(cfg Config, bound string) (string, error) {
	_, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", err
	}
	if cfg.Advertise != "" {
		return configured(cfg.Network, cfg.Advertise, port)
	}
	at, err := netip.ParseAddrPort(bound)
	if err != nil {
		return "", err
	}
	if !at.Addr().IsUnspecified() {
		return CanonicalAddr(at.Addr().String(), port), nil
	}
	usable := func(ip netip.Addr) bool {
		return ip.IsGlobalUnicast() && (ip.Is4() || !at.Addr().Is4()) // 0.0.0.0 accepts IPv4 only
	}
	if ip := towards(cfg.Network, cfg.Join, usable); ip.IsValid() {
		return CanonicalAddr(ip.String(), port), nil
	}
	for _, elsewhere := range []string{"192.0.2.1:7946", "[2001:db8::1]:7946"} { // reserved for documentation
		if ip, err := cfg.Network.Source(elsewhere); err == nil && usable(ip) {
			return CanonicalAddr(ip.String(), port), nil
		}
	}
	ips, err := cfg.Network.Addrs()
	if i := slices.IndexFunc(ips, usable); i >= 0 {
		return CanonicalAddr(ips[i].String(), port), nil
	}
	return "", errors.Join(fmt.Errorf("bind %s: this host has no address at which others could reach it: set Advertise to one", bound), err)
}

// configured returns the canonical form of Config.Advertise. Port 0 stands for the
// bound port.
func configured(network Network, advertise, port string) (string, error) {
	host, givenPort, err := net.SplitHostPort(advertise)
	if err != nil {
		return "", err
	}
	if givenPort == "0" {
		givenPort = port
	}
	ips, err := network.LookupHost(context.Background(), host)
	if err != nil {
		return "", fmt.Errorf("advertise %s: %w", advertise, err)
	}
	if ip, err := netip.ParseAddr(ips[0]); err != nil || ip.IsUnspecified() {
		return "", fmt.Errorf("advertise %s: want an address at which others reach this node", advertise)
	}
	return CanonicalAddr(ips[0], givenPort), nil
}

// towards returns the usable address from which traffic leaves this host to the first
// of join for which there is one; invalid: there is none.
func towards(network Network, join []string, usable func(netip.Addr) bool) (source netip.Addr) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	ips := make([][]string, min(len(join), 8))
	var lookups sync.WaitGroup
	for i := range ips {
		lookups.Go(func() {
			host, _, _ := net.SplitHostPort(join[i])
			ips[i], _ = network.LookupHost(ctx, host)
			slices.Sort(ips[i]) // the same order on all nodes
		})
	}
	lookups.Wait()
	for i, all := range ips {
		_, port, _ := net.SplitHostPort(join[i])
		for _, ip := range all {
			if source, err := network.Source(net.JoinHostPort(ip, port)); err == nil && usable(source) {
				return source
			}
		}
	}
	return netip.Addr{}
}

// CanonicalAddr returns host:port in canonical form, so that equal addresses are equal
// strings. Users write IPv6 addresses in many ways, and ports with leading zeros.
func CanonicalAddr(ip, port string) string {
	if at, err := netip.ParseAddr(ip); err == nil {
		ip = at.Unmap().String()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		port = strconv.FormatUint(n, 10)
	}
	return net.JoinHostPort(ip, port)
}
