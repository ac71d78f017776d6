package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster/internal/memnet"
)

// open opens a port and closes it at the end of the test. Unless cfg says otherwise,
// its node id is derived from its address and it admits all peers.
func open(t *testing.T, cfg Config) *Port {
	t.Helper()
	if cfg.Hello == nil {
		cfg.Hello = func() Hello { return Hello{Node: "node at " + cfg.Bind} }
	}
	if cfg.Admit == nil {
		cfg.Admit = func(Kind, Hello) error { return nil }
	}
	if cfg.Copied == nil {
		cfg.Copied = func(_, peer Hello) error { return fmt.Errorf("%q is a copy", peer.Node) }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// raftAddr returns the address by which Raft dials the node of p.
func raftAddr(p *Port) raft.ServerAddress { return RaftAddr(p.Hello().Node, p.Addr()) }

// exchange opens a stream from one port to another and sends a message each way.
func exchange(from, to *Port) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	here, err := from.Dial(ctx, RPC, to.Addr())
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := to.RPC().Accept()
	if err != nil {
		return err
	}
	defer there.Close()
	return echo(here, there)
}

// echo sends a message each way on a stream, and returns an error if one does not
// arrive.
func echo(here, there net.Conn) error {
	for _, way := range []struct {
		from io.Writer
		to   io.Reader
	}{{here, there}, {there, here}} {
		got := make([]byte, len("message"))
		_, sent := io.WriteString(way.from, "message")
		_, err := io.ReadFull(way.to, got)
		if err = errors.Join(sent, err); err != nil || string(got) != "message" {
			return fmt.Errorf("received %q: %w", got, err)
		}
	}
	return nil
}

// host is a host that a port can be opened on.
type host struct {
	Network
	ip string
}

// config returns the configuration of a port on the host.
func (h host) config(secret Secret) Config {
	return Config{Network: h, Bind: h.ip + ":0", Secret: secret}
}

// everywhere runs f on hosts in memory and on the loopback interface.
func everywhere(t *testing.T, f func(t *testing.T, at func(i int) host)) {
	t.Run("in memory", func(t *testing.T) {
		inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) { f(t, at) })
	})
	t.Run("loopback", func(t *testing.T) {
		f(t, func(int) host { return host{System, "127.0.0.1"} })
	})
}

// inMemory runs f in a bubble, which fails the test if a goroutine is left at the end.
func inMemory(t *testing.T, f func(t *testing.T, n *memnet.Net, at func(i int) host)) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		f(t, n, func(i int) host {
			ip := fmt.Sprintf("10.0.%d.%d", i/256, i%256)
			return host{n.Host(ip), ip}
		})
	})
}

// dial opens a stream to a port, below TLS.
func dial(t *testing.T, from host, to *Port) net.Conn {
	t.Helper()
	raw, err := from.Dial(t.Context(), to.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	return raw
}

// awaitEnd waits until the other side has closed raw.
func awaitEnd(raw net.Conn) {
	io.Copy(io.Discard, raw) //nolint:errcheck // a reset ends it as well
}

// assertNoStreams fails the test if a stream of any kind has been accepted.
func assertNoStreams(t *testing.T, p *Port) {
	t.Helper()
	for kind, a := range p.acceptors {
		assert.Empty(t, a.conns, kind)
	}
	select {
	case c := <-p.Gossip().StreamCh():
		assert.Fail(t, "gossip has a stream", "from %s", c.RemoteAddr())
	default:
	}
}

// journal is a log that a test can read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// member returns the TLS configuration of a holder of secret, for peers that omit a
// part of the handshake. It does not verify the port.
func member(t *testing.T, secret Secret, kinds ...string) *tls.Config {
	cfg, err := credentials(secret, nil)
	require.NoError(t, err)
	cfg.InsecureSkipVerify = true
	cfg.NextProtos = kinds
	return cfg
}

// impostor returns the TLS configuration of a peer with a self-signed certificate,
// which names an organizational unit.
func impostor(t *testing.T, unit string) *tls.Config {
	cert := selfSigned(t, unit)
	return &tls.Config{
		InsecureSkipVerify: true, NextProtos: kinds, Certificates: []tls.Certificate{cert},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
}

func selfSigned(t *testing.T, unit string) tls.Certificate {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: serverName, OrganizationalUnit: []string{unit}},
		DNSNames: []string{serverName}, NotBefore: always, NotAfter: forever, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// The port ends the stream of a peer that does not complete the handshake, logs why,
// and hands the stream to no listener.
func TestIncompleteHandshakeIsRefused(t *testing.T) {
	hello := appendHello(nil, Hello{Node: "stranger"})
	overTLS := func(what []byte, cfg func(t *testing.T) *tls.Config) func(*testing.T, net.Conn) {
		return func(t *testing.T, raw net.Conn) {
			tls.Client(raw, cfg(t)).Write(what) //nolint:errcheck // the port may have closed the stream by then
		}
	}
	plain := func(what ...string) func(*testing.T, net.Conn) {
		return func(_ *testing.T, raw net.Conn) {
			io.WriteString(raw, strings.Join(what, "")) //nolint:errcheck // as above
		}
	}
	for _, tt := range []struct {
		name string
		say  func(t *testing.T, raw net.Conn)
		want string
	}{
		{"HTTP", plain("GET / HTTP/1.1\r\nHost: choked\r\n\r\n"), "does not look like a TLS handshake"},
		{"a hello before TLS", plain(string(hello)), "does not look like a TLS handshake"},
		{"a length of 2 GiB", plain("\x7f\xff\xff\xff", strings.Repeat("x", 1000)), "does not look like a TLS handshake"},
		{"a record of 64 KiB", plain("\x16\x03\x01\xff\xff", strings.Repeat("x", 70000)), "oversized record"},
		{"a handshake message of 16 MiB", plain("\x16\x03\x01\x40\x00\x01\xff\xff\xff", strings.Repeat("x", 20000)), "exceeds maximum"},
		{"the wrong secret", overTLS(hello, func(t *testing.T) *tls.Config { return member(t, "b", string(RPC)) }), "unknown authority"},
		{"no certificate", overTLS(hello, func(t *testing.T) *tls.Config {
			return &tls.Config{InsecureSkipVerify: true, NextProtos: kinds}
		}), "didn't provide a certificate"},
		{"a self-signed certificate", overTLS(hello, func(t *testing.T) *tls.Config { return impostor(t, "") }), "unknown authority"},
		{"a certificate of 1 MB", overTLS(hello, func(t *testing.T) *tls.Config { return impostor(t, strings.Repeat("x", 1<<20)) }), "exceeds maximum"},
		{"TLS 1.2", overTLS(hello, func(t *testing.T) *tls.Config {
			cfg := member(t, "a", kinds...)
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return cfg
		}), "unsupported versions"},
		{"no protocol", overTLS(hello, func(t *testing.T) *tls.Config { return member(t, "a") }), `protocol \"\": want one of`},
		{"another protocol", overTLS(hello, func(t *testing.T) *tls.Config { return member(t, "a", "h2", "choked-raft/3") }), ErrVersion.Error()},
		{"a bad hello", overTLS([]byte("hello, who is there?"), func(t *testing.T) *tls.Config { return member(t, "a", kinds...) }), "read hello"},
		{"a hello without end", overTLS([]byte(magic+"\xff"), func(t *testing.T) *tls.Config { return member(t, "a", kinds...) }), "want 0 to 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, at func(int) host) {
				var log journal
				cfg := at(1).config("a")
				cfg.Logger = log.logger()
				cfg.Admit = func(Kind, Hello) error { return errors.New("Admit is called") }
				p := open(t, cfg)
				raw := dial(t, at(2), p)
				tt.say(t, raw)
				awaitEnd(raw)
				assert.Contains(t, log.String(), "stream refused")
				assert.Contains(t, log.String(), tt.want)
				assertNoStreams(t, p)
			})
		})
	}
}

// No input from an unknown peer begins a new line in the log, or controls the terminal
// that shows it.
func TestUnknownPeersCannotForgeLogLines(t *testing.T) {
	const weapon = "\nlevel=ERROR msg=forged\x1b[2J\x00<script>"
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		var log journal
		cfg := at(1).config("a")
		cfg.Logger = log.logger()
		cfg.Admit = func(Kind, Hello) error { return errors.New("not " + weapon) }
		p := open(t, cfg)
		for name, say := range map[string]func(raw net.Conn){
			"bytes": func(raw net.Conn) { io.WriteString(raw, weapon) },
			"protocols": func(raw net.Conn) {
				tls.Client(raw, member(t, "a", weapon)).Handshake()
			},
			"a server name": func(raw net.Conn) {
				cfg := member(t, "b", kinds...)
				cfg.ServerName = weapon
				tls.Client(raw, cfg).Handshake()
			},
			"a certificate": func(raw net.Conn) {
				tls.Client(raw, impostor(t, weapon)).Handshake()
			},
			"a hello": func(raw net.Conn) {
				io.WriteString(tls.Client(raw, member(t, "a", kinds...)), weapon)
			},
			"ids": func(raw net.Conn) {
				tls.Client(raw, member(t, "a", kinds...)).Write(appendHello(nil, Hello{Cluster: weapon, Node: weapon}))
			},
		} {
			raw := dial(t, at(2), p)
			before := log.String()
			say(raw)
			awaitEnd(raw)
			logged := strings.TrimPrefix(log.String(), before)
			assert.Contains(t, logged, "stream refused", name)
			assert.Equal(t, 1, strings.Count(logged, "\n"), "%s: %s", name, logged)
			assert.NotContains(t, logged, "\x1b", name)
			assert.NotContains(t, logged, "\x00", name)
		}
	})
}

// The handshake that the tests above leave incomplete is accepted when it is complete.
func TestHolderOfTheSecretIsAdmitted(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		p := open(t, at(1).config("a"))
		for _, kind := range kinds {
			stream := tls.Client(dial(t, at(2), p), member(t, "a", kind))
			peer, err := greet(stream, p.Addr(), Hello{Node: "stranger"})
			require.NoError(t, err)
			assert.Equal(t, p.Hello(), peer)
		}
		for _, l := range []net.Listener{p.RPC(), p.Raft()} {
			c, err := l.Accept()
			require.NoError(t, err)
			assert.Equal(t, Hello{Node: "stranger"}, c.(*Conn).Peer)
		}
		c := <-p.Gossip().StreamCh()
		assert.Equal(t, Hello{Node: "stranger"}, c.(*Conn).Peer)
	})
}

// plainLayer is a [raft.StreamLayer] without TLS.
type plainLayer struct {
	net.Listener
	from host
}

func (l plainLayer) Dial(to raft.ServerAddress, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return l.from.Dial(ctx, string(to))
}

func transport(t *testing.T, layer raft.StreamLayer) *raft.NetworkTransport {
	tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 1, Timeout: time.Second, Logger: hclog.NewNullLogger(),
	})
	t.Cleanup(func() { tr.Close() })
	return tr
}

// No request of Raft's own transport, without TLS, reaches the Raft behind the port.
// Within TLS all do.
func TestForgedRaftRequestsAreDropped(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		victim := open(t, at(1).config("a"))
		behind := transport(t, victim.Raft())
		var received atomic.Int32
		behind.SetHeartbeatHandler(func(rpc raft.RPC) {
			received.Add(1)
			rpc.Respond(&raft.AppendEntriesResponse{}, nil)
		})
		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("forger"), Addr: []byte("10.0.0.2:7946")}
		send := func(tr raft.Transport, to raft.ServerAddress) map[string]error {
			return map[string]error{
				"vote":      tr.RequestVote("v", to, &raft.RequestVoteRequest{RPCHeader: header, Term: 99}, &raft.RequestVoteResponse{}),
				"heartbeat": tr.AppendEntries("v", to, &raft.AppendEntriesRequest{RPCHeader: header, Term: 99}, &raft.AppendEntriesResponse{}),
				"entries": tr.AppendEntries("v", to, &raft.AppendEntriesRequest{
					RPCHeader: header, Term: 99, Entries: []*raft.Log{{Index: 1, Term: 99, Data: []byte("mine")}},
				}, &raft.AppendEntriesResponse{}),
				"timeout now": tr.TimeoutNow("v", to, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{}),
				"snapshot": tr.InstallSnapshot("v", to, &raft.InstallSnapshotRequest{RPCHeader: header, Term: 99, Size: 4},
					&raft.InstallSnapshotResponse{}, strings.NewReader("mine")),
			}
		}

		l, err := at(2).Listen(at(2).ip + ":0")
		require.NoError(t, err)
		for what, err := range send(transport(t, plainLayer{l, at(2)}), raft.ServerAddress(victim.Addr())) {
			assert.Error(t, err, what)
		}
		assertNoStreams(t, victim)
		assert.Empty(t, behind.Consumer())
		assert.Zero(t, received.Load())

		done := make(chan struct{})
		var asked []string
		go func() {
			defer close(done)
			for rpc := range behind.Consumer() {
				asked = append(asked, fmt.Sprintf("%T", rpc.Command))
				if rpc.Reader != nil {
					io.Copy(io.Discard, rpc.Reader) //nolint:errcheck // it is read to its end or not
				}
				switch rpc.Command.(type) {
				case *raft.RequestVoteRequest:
					rpc.Respond(&raft.RequestVoteResponse{}, nil)
				case *raft.AppendEntriesRequest:
					rpc.Respond(&raft.AppendEntriesResponse{}, nil)
				case *raft.InstallSnapshotRequest:
					rpc.Respond(&raft.InstallSnapshotResponse{}, nil)
				case *raft.TimeoutNowRequest:
					rpc.Respond(&raft.TimeoutNowResponse{}, nil)
				}
				if len(asked) == 4 {
					return
				}
			}
		}()
		for what, err := range send(transport(t, open(t, at(3).config("a")).Raft()), raftAddr(victim)) {
			assert.NoError(t, err, what)
		}
		<-done
		assert.Len(t, asked, 4)
		assert.EqualValues(t, 1, received.Load(), "heartbeats go to their own handler")
	})
}

func TestWrongSecretIsRefusedBothWays(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		one, two := open(t, at(1).config("a")), open(t, at(2).config("b"))
		for _, pair := range [][2]*Port{{one, two}, {two, one}} {
			for _, kind := range kinds {
				_, err := pair[0].Dial(t.Context(), Kind(kind), pair[1].Addr())
				assert.ErrorContains(t, err, "handshake with "+pair[1].Addr())
				assert.ErrorContains(t, err, "unknown authority")
			}
		}
		for _, pair := range [][2]*Port{{one, two}, {two, one}} {
			require.Eventually(t, func() bool { return len(pair[0].WrongSecrets()) == 2 }, 5*time.Second, time.Millisecond, "the accepting side learns of it, too")
			wrong := pair[0].WrongSecrets()
			assert.Equal(t, pair[1].Addr()+" answers, but not to our secret", wrong[0].String())
			ip, _, _ := net.SplitHostPort(pair[1].Addr())
			assert.Equal(t, ip+" dials us, but with another secret", wrong[1].String())
			assert.Less(t, time.Since(wrong[0].Since), 5*time.Second)
		}
		for _, p := range []*Port{one, two} {
			assertNoStreams(t, p)
			assert.NoError(t, p.Close())
			assert.Empty(t, p.conns)
		}
	})
}

// Dial sends no hello to a listener that does not prove that it holds the secret.
func TestDialSendsNoHelloToUnknownPeers(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		p := open(t, at(1).config("a"))
		l, err := at(2).Listen(at(2).ip + ":0")
		require.NoError(t, err)
		defer l.Close()
		for name, cfg := range map[string]*tls.Config{
			"another secret": member(t, "b", kinds...),
			"self-signed":    impostor(t, ""),
		} {
			cfg.ClientAuth, cfg.ClientCAs = tls.NoClientCert, nil
			received := make(chan []byte, 1)
			go func() {
				raw, err := l.Accept()
				if !assert.NoError(t, err) {
					return
				}
				defer raw.Close()
				b, _ := io.ReadAll(tls.Server(raw, cfg))
				received <- b
			}()
			_, err := p.Dial(t.Context(), RPC, l.Addr().String())
			assert.ErrorContains(t, err, "failed to verify certificate", name)
			assert.Empty(t, <-received, name)
		}
	})
}

// gossiper is a memberlist over a port that records the messages it receives.
type gossiper struct {
	*memberlist.Memberlist
	mu       sync.Mutex
	received []string
}

func gossip(t *testing.T, name string, p *Port) *gossiper {
	g := &gossiper{}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Transport, c.Delegate = name, p.Gossip(), g
	c.LogOutput = io.Discard
	at := netip.MustParseAddrPort(p.Addr())
	c.AdvertiseAddr, c.AdvertisePort = at.Addr().String(), int(at.Port())
	var err error
	g.Memberlist, err = memberlist.Create(c)
	require.NoError(t, err)
	t.Cleanup(func() {
		g.Shutdown()
		time.Sleep(time.Minute) // memberlist does not wait for its goroutines
	})
	return g
}

func (g *gossiper) NotifyMsg(b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.received = append(g.received, string(b))
}

func (g *gossiper) NodeMeta(int) []byte               { return nil }
func (g *gossiper) GetBroadcasts(int, int) [][]byte   { return nil }
func (g *gossiper) LocalState(bool) []byte            { return nil }
func (g *gossiper) MergeRemoteState(_ []byte, _ bool) {}

// A packet that is not sealed with a key of the cluster has no effect.
func TestForgedGossipIsDropped(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		victim := open(t, at(1).config("a"))
		list := gossip(t, "victim", victim)
		to := memberlist.Address{Addr: victim.Addr()}
		stranger := gossip(t, "stranger", open(t, at(2).config("b")))
		friend := gossip(t, "friend", open(t, at(3).config("a")))
		next := gossip(t, "next", open(t, Config{Network: at(4), Bind: at(4).ip + ":0", Secret: "b", Previous: []Secret{"a"}}))
		for _, from := range []*gossiper{stranger, friend, next} {
			require.NoError(t, from.SendToAddress(to, []byte("from "+from.LocalNode().Name)))
		}
		// Byte for byte: a user message, one in a compound, and noise.
		socket, err := at(5).ListenPacket(at(5).ip + ":0")
		require.NoError(t, err)
		defer socket.Close()
		for _, forged := range []string{"\x08mine", "\x07\x01\x00\x05\x08mine", "", "\x00", "\x0c\x04mine", strings.Repeat("\xff", 1400), strings.Repeat("\x01", 29)} {
			_, err := socket.WriteTo([]byte(forged), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(victim.Addr())))
			require.NoError(t, err)
		}
		synctest.Wait()
		list.mu.Lock()
		assert.ElementsMatch(t, []string{"from friend", "from next"}, list.received)
		list.mu.Unlock()
		assert.Len(t, list.Members(), 1)

		_, err = stranger.Join([]string{victim.Addr()})
		assert.Error(t, err)
		synctest.Wait()
		assert.Len(t, list.Members(), 1)
		for i, from := range []*gossiper{friend, next} {
			_, err = from.Join([]string{victim.Addr()})
			assert.NoError(t, err)
			synctest.Wait()
			assert.Len(t, list.Members(), 2+i)
		}
	})
}

// handshakesOf returns how many connections from ip are in their handshake.
func (p *Port) handshakesOf(ip string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.handshakes[network(netip.MustParseAddr(ip))]
}

// held returns how many connections the port holds.
func (p *Port) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Connections that send no handshake are closed after two seconds. Until then they
// keep out others from the same IP address, but none from elsewhere.
func TestSilentConnectionsDoNotBlockOtherHosts(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, good := open(t, at(1).config("a")), open(t, at(2).config("a"))
		crowd := at(3)
		var sent atomic.Int32
		began := time.Now()
		var all sync.WaitGroup
		for i := range 500 {
			raw := dial(t, crowd, p)
			if i%2 == 1 {
				raw.Write([]byte{0x16}) // the first byte of a handshake
			}
			all.Go(func() {
				awaitEnd(raw)
				if time.Since(began) == 0 {
					sent.Add(1)
				}
			})
			if i%50 == 0 {
				synctest.Wait()
				assert.LessOrEqual(t, p.handshakesOf(crowd.ip), maxHandshakesPerIP)
			}
		}
		synctest.Wait()
		assert.Equal(t, maxHandshakesPerIP, p.handshakesOf(crowd.ip))
		assert.EqualValues(t, 500-maxHandshakesPerIP, sent.Load(), "the rest is closed at once")
		assert.NoError(t, exchange(good, p))
		assert.Zero(t, time.Since(began), "the other host does not wait")

		time.Sleep(handshakeTimeout - 1)
		assert.Equal(t, maxHandshakesPerIP, p.handshakesOf(crowd.ip))
		time.Sleep(time.Nanosecond)
		all.Wait()
		synctest.Wait()
		assert.Equal(t, handshakeTimeout, time.Since(began))
		assert.Zero(t, p.handshakesOf(crowd.ip))
		assert.Zero(t, p.held())
		assert.Empty(t, p.handshakes)
		assertNoStreams(t, p)
		assert.NoError(t, exchange(good, p))
	})
}

// fakeConn is a connection from an address.
type fakeConn struct {
	net.Conn
	from string
}

func (c *fakeConn) RemoteAddr() net.Addr { return addr(c.from) }
func (c *fakeConn) Close() error         { return nil }

// Connections from one IPv6 network of 64 bits share the bound of one source, and those
// from one IPv4 address, however it is written. Members in a full network have places
// of their own.
func TestHandshakesAreBoundedByNetwork(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		cfg := at(1).config("a")
		cfg.IsMember = func(ip netip.Addr) bool { return ip == netip.MustParseAddr("2001:db8::3:7") }
		p := open(t, cfg)
		begin := func(format string) (begun int) {
			for i := range 200 {
				from := format
				if strings.Contains(from, "%") {
					from = fmt.Sprintf(format, i)
				}
				if _, ok := p.beginHandshake(&fakeConn{from: from}); ok {
					begun++
				}
			}
			return begun
		}
		for _, tt := range []struct {
			from string
			want int
		}{
			{"[2001:db8::%x]:40000", 64},
			{"[2001:db8::1:%x]:40000", 0}, // the same network
			{"[2001:db8:0:1::%x]:40000", 64},
			{"10.0.0.9:%d", 64},
			{"[::ffff:10.0.0.9]:%d", 0}, // the same address
			{"10.0.0.10:%d", 64},
			{"[fe80::1%%eth0]:40000", 64},
			{"[fe80::1%%eth1]:40000", 0},
			{"[2001:db8::3:7]:%d", 64}, // a member in a full network
		} {
			assert.Equal(t, tt.want, begin(strings.ReplaceAll(tt.from, "%%", "%")), tt.from)
		}
	})
}

// Strangers that take all their places do not delay a member.
func TestStrangersDoNotDelayMembers(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		cfg := at(1).config("a")
		var ask atomic.Int32
		cfg.IsMember = func(ip netip.Addr) bool { ask.Add(1); return ip == netip.MustParseAddr(at(2).ip) }
		p := open(t, cfg)
		known, unknown := open(t, at(2).config("a")), open(t, at(3).config("a"))
		assert.NoError(t, exchange(unknown, p), "there are places")
		assert.Zero(t, ask.Load(), "as long as there are places nobody asks who is a member")
		for i := range 20 {
			for range maxHandshakesPerIP {
				dial(t, at(100+i), p)
			}
			synctest.Wait()
		}
		assert.Equal(t, maxHandshakes-memberHandshakes, p.held())
		began := time.Now()
		assert.Error(t, exchange(unknown, p))
		for range 2 * memberHandshakes {
			require.NoError(t, exchange(known, p))
		}
		assert.Zero(t, time.Since(began), "the member does not wait")

		// Even an address of a member gets no more than its places.
		for range 2 * memberHandshakes {
			dial(t, at(2), p)
			synctest.Wait()
		}
		assert.Equal(t, maxHandshakes, p.held())
		assert.Error(t, exchange(known, p))
		time.Sleep(handshakeTimeout)
		synctest.Wait()
		assert.Empty(t, p.handshakes)
		assert.NoError(t, exchange(known, p))
		assert.NoError(t, exchange(unknown, p))
	})
}

// The number of connections in their handshake is bounded over all IP addresses.
func TestHandshakesFromManyHostsAreBounded(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p := open(t, at(1).config("a"))
		for i := range 20 {
			for range 60 {
				dial(t, at(100+i), p)
			}
			synctest.Wait()
			assert.Equal(t, min(60*(i+1), maxHandshakes-memberHandshakes), p.held(), "the rest is for members")
		}
		time.Sleep(handshakeTimeout)
		synctest.Wait()
		assert.Zero(t, p.held())
		assert.NoError(t, exchange(open(t, at(2).config("a")), p))
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, good := open(t, at(1).config("a")), open(t, at(2).config("a"))
		var others []net.Conn
		for range maxConns {
			c, _ := net.Pipe()
			others = append(others, c)
			p.remember(c, RPC)
		}
		assert.Error(t, exchange(good, p))
		p.forget(others[0])
		assert.NoError(t, exchange(good, p))
	})
}

// The two seconds bound the whole handshake. No step of it restarts them.
func TestSlowHandshakeEndsInTime(t *testing.T) {
	for name, say := range map[string]func(t *testing.T, raw net.Conn){
		"byte by byte": func(t *testing.T, raw net.Conn) {
			for i := 0; ; i++ { // a record that never ends
				if _, err := raw.Write([]byte("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + strings.Repeat("x", 100))[i:][:1]); err != nil {
					return
				}
				time.Sleep(handshakeTimeout / 20)
			}
		},
		"late": func(t *testing.T, raw net.Conn) {
			time.Sleep(handshakeTimeout - time.Millisecond)
			tls.Client(raw, member(t, "a", kinds...)).Handshake()
		},
		"without a hello": func(t *testing.T, raw net.Conn) {
			tls.Client(raw, member(t, "a", kinds...)).Handshake()
		},
		"half a hello": func(t *testing.T, raw net.Conn) {
			stream := tls.Client(raw, member(t, "a", kinds...))
			time.Sleep(handshakeTimeout / 2)
			stream.Handshake()
			time.Sleep(handshakeTimeout / 4)
			io.WriteString(stream, magic+"\x01c\x08half")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
				p := open(t, at(1).config("a"))
				began := time.Now()
				raw := dial(t, at(2), p)
				var sending sync.WaitGroup
				sending.Go(func() { say(t, raw) })
				time.Sleep(handshakeTimeout - 1)
				assert.Equal(t, 1, p.handshakesOf(at(2).ip))
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				assert.Zero(t, p.held())
				assert.Equal(t, handshakeTimeout, time.Since(began))
				assertNoStreams(t, p)
				sending.Wait()
			})
		})
	}
}

// A dial of a silent listener ends after the same two seconds, or with its context.
func TestDialOfSilentListenerEndsInTime(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p := open(t, at(1).config("a"))
		l, err := at(2).Listen(at(2).ip + ":0")
		require.NoError(t, err)
		for _, tt := range []struct{ limit, want time.Duration }{
			{time.Hour, handshakeTimeout}, {time.Second, time.Second},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
			began := time.Now()
			_, err = p.Dial(ctx, RPC, l.Addr().String())
			assert.ErrorContains(t, err, "handshake with "+l.Addr().String())
			assert.Equal(t, tt.want, time.Since(began))
			var timeout net.Error
			assert.ErrorAs(t, err, &timeout)
			assert.True(t, timeout.Timeout())
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		_, err = p.Dial(ctx, RPC, l.Addr().String())
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, time.Second, time.Since(began))
		assert.Zero(t, p.held())
	})
}

// The error of a dial that is cancelled before it connects names the cause.
func TestCancelledDialNamesTheCause(t *testing.T) {
	why := errors.New("asked others instead")
	for name, network := range map[string]Network{"system": System, "that never connects": nowhere{System}} {
		t.Run(name, func(t *testing.T) {
			cfg := host{System, "127.0.0.1"}.config("a")
			cfg.Network = network
			p := open(t, cfg)
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(why)
			_, err := p.Dial(ctx, RPC, "127.0.0.1:1")
			assert.EqualError(t, err, "dial 127.0.0.1:1: asked others instead")
			assert.ErrorIs(t, err, why)
		})
	}
}

// nowhere is a network on which dials never connect.
type nowhere struct{ Network }

func (nowhere) Dial(ctx context.Context, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// After the handshake a peer may be silent for any time.
func TestPeersMayBeSilentAfterTheHandshake(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		one, two := open(t, at(1).config("a")), open(t, at(2).config("a"))
		here, err := one.Dial(t.Context(), RPC, two.Addr())
		require.NoError(t, err)
		there, err := two.RPC().Accept()
		require.NoError(t, err)
		time.Sleep(24 * time.Hour)
		assert.NoError(t, echo(here, there))
		assert.Equal(t, two.Hello(), here.Peer)
		assert.Equal(t, one.Hello(), there.(*Conn).Peer)
	})
}

// The input of an unknown peer makes the port allocate little more than its size.
func TestUnknownPeersAllocateLittle(t *testing.T) {
	p := open(t, host{System, "127.0.0.1"}.config("a"))
	junk := make([]byte, 1<<20)
	for name, head := range map[string]string{
		"a length of 2 GiB":             "\x7f\xff\xff\xff",
		"a record of 64 KiB":            "\x16\x03\x01\xff\xff",
		"a handshake message of 16 MiB": "\x16\x03\x01\x40\x00\x01\xff\xff\xff",
		"the largest message allowed":   "\x16\x03\x01\x40\x00\x01\x00\xff\xff",
	} {
		raw := dial(t, host{System, "127.0.0.1"}, p)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		raw.Write([]byte(head))
		for range 64 {
			if _, err := raw.Write(junk); err != nil {
				break // the port has closed it
			}
		}
		raw.(*net.TCPConn).CloseWrite()
		awaitEnd(raw)
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20), name)
	}
}

// The same holds behind TLS, for a holder of the secret that sends no hello: the
// header of its first message claims 2 GiB.
func TestHelloAllocatesLittle(t *testing.T) {
	p := open(t, host{System, "127.0.0.1"}.config("a"))
	for _, head := range []string{"\x7f\xff\xff\xff", magic + "\xff", magic + "\x40" + strings.Repeat("\xff", 1000)} {
		stream := tls.Client(dial(t, host{System, "127.0.0.1"}, p), member(t, "a", kinds...))
		require.NoError(t, stream.Handshake())
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		io.WriteString(stream, head)
		stream.CloseWrite()
		awaitEnd(stream.NetConn())
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20))
	}
}

// The reason of a refusal is in the error of Dial, and is passed to Config.Refused.
func TestRefusalReachesTheDialler(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		cfg := at(1).config("a")
		cfg.Hello = func() Hello { return Hello{Cluster: "ours", Node: "one"} }
		cfg.Admit = func(kind Kind, h Hello) error {
			if kind == Gossip {
				return nil
			}
			return fmt.Errorf("no %s for %s of %s", kind, h.Node, h.Cluster)
		}
		var log journal
		cfg.Logger = log.logger()
		one := open(t, cfg)

		cfg = at(2).config("a")
		cfg.Hello = func() Hello { return Hello{Cluster: "theirs", Node: "two"} }
		var refusals []string
		cfg.Refused = func(kind Kind, err *RefusedError) { refusals = append(refusals, string(kind)+": "+err.Error()) }
		two := open(t, cfg)

		for _, kind := range []Kind{Raft, RPC} {
			_, err := two.Dial(t.Context(), kind, one.Addr())
			var refused *RefusedError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, RefusedError{Addr: one.Addr(), Reason: fmt.Sprintf("no %s for two of theirs", kind), Peer: Hello{Cluster: "ours", Node: "one", Addr: one.Addr()}}, *refused)
		}
		assert.Equal(t, []string{
			fmt.Sprintf("choked-raft/2: %s refuses: no choked-raft/2 for two of theirs", one.Addr()),
			fmt.Sprintf("choked-rpc/2: %s refuses: no choked-rpc/2 for two of theirs", one.Addr()),
		}, refusals)

		welcome, err := two.Dial(t.Context(), Gossip, one.Addr())
		require.NoError(t, err)
		assert.Equal(t, Hello{Cluster: "ours", Node: "one", Addr: one.Addr()}, welcome.Peer)
		there := <-one.Gossip().StreamCh()
		assert.NoError(t, echo(welcome, there))
		assertNoStreams(t, one)
		assert.Len(t, refusals, 2)

		_, err = open(t, at(2).config("a")).Dial(t.Context(), RPC, one.Addr()) // without Config.Refused
		assert.ErrorContains(t, err, "refuses")
		require.NoError(t, one.Close())
		assert.Equal(t, 3, strings.Count(log.String(), "stream refused"))
		assert.Contains(t, log.String(), "no choked-rpc/2 for two of theirs")
	})
}

// When two processes have one node id, both sides of a stream learn it from the same
// hellos, and there is no stream. The process itself, dialled at an address of its
// own, is a peer like any other.
func TestBothSidesLearnOfACopy(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		type meeting struct{ self, peer Hello }
		met := make(chan meeting, 2)
		start := func(i int, run uint64, admit error) *Port {
			cfg := at(i).config("a")
			cfg.Hello = func() Hello { return Hello{Node: "n", Run: run, Up: time.Duration(run)} }
			cfg.Admit = func(Kind, Hello) error { return admit }
			cfg.Copied = func(self, peer Hello) error {
				met <- meeting{self, peer}
				return fmt.Errorf("run %d meets run %d", self.Run, peer.Run)
			}
			cfg.Refused = func(Kind, *RefusedError) { assert.Fail(t, "a copy is no other refusal") }
			return open(t, cfg)
		}
		one, two := start(1, 1, nil), start(2, 2, errors.New("admits no peer"))
		for _, dial := range []struct{ from, to *Port }{{one, two}, {two, one}} {
			_, err := dial.from.Dial(t.Context(), RPC, dial.to.Addr())
			assert.ErrorContains(t, err, fmt.Sprintf("run %d meets run %d", dial.from.Hello().Run, dial.to.Hello().Run))
			a, b := <-met, <-met
			assert.Equal(t, a.self, b.peer)
			assert.Equal(t, a.peer, b.self)
			assertNoStreams(t, dial.to)
		}
		c, err := one.Dial(t.Context(), RPC, one.Addr())
		require.NoError(t, err)
		assert.True(t, c.Peer.IsProcess(one.Hello()))
		c.Close()
	})
}

// Streams beyond the backlog are closed.
func TestStreamsBeyondTheBacklogAreClosed(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		one, two := open(t, at(1).config("a")), open(t, at(2).config("a"))
		var streams []*Conn
		for range backlog + 1 {
			c, err := one.Dial(t.Context(), RPC, two.Addr())
			require.NoError(t, err)
			streams = append(streams, c)
			synctest.Wait() // until it is offered
		}
		awaitEnd(streams[backlog])
		assert.Equal(t, backlog, two.held())
		there, err := two.RPC().Accept()
		require.NoError(t, err)
		assert.NoError(t, echo(streams[0], there), "streams are accepted in the order they came")
		c, err := one.Dial(t.Context(), Raft, two.Addr())
		require.NoError(t, err, "other kinds have their own backlog")
		c.Close()
	})
}

// Close ends all goroutines and calls of a port: the bubble fails otherwise.
func TestCloseEndsAllCalls(t *testing.T) {
	inMemory(t, func(t *testing.T, n *memnet.Net, at func(int) host) {
		p, peer := open(t, at(1).config("a")), open(t, at(2).config("a"))
		silent, err := at(3).Listen(at(3).ip + ":7946")
		require.NoError(t, err)
		n.Cut(at(1).ip, at(4).ip)

		here, err := p.Dial(t.Context(), RPC, peer.Addr())
		require.NoError(t, err)
		there, err := peer.RPC().Accept()
		require.NoError(t, err)
		for range 3 { // of a gossip that does not take them
			_, err := peer.Dial(t.Context(), Gossip, p.Addr())
			require.NoError(t, err)
		}
		stranger := dial(t, at(5), p)

		began := time.Now()
		over := make(map[string]error)
		var mu sync.Mutex
		var all sync.WaitGroup
		blocks := func(what string, f func() error) {
			all.Go(func() {
				err := f()
				mu.Lock()
				defer mu.Unlock()
				over[what] = err
			})
		}
		blocks("accept RPC", func() error { _, err := p.RPC().Accept(); return err })
		blocks("accept Raft", func() error { _, err := p.Raft().Accept(); return err })
		blocks("dial a host cut off", func() error { _, err := p.Dial(t.Context(), RPC, at(4).ip+":7946"); return err })
		blocks("dial a silent host", func() error { _, err := p.Dial(t.Context(), RPC, silent.Addr().String()); return err })
		blocks("read", func() error { _, err := here.Read(make([]byte, 1)); return err })
		blocks("read by the peer", func() error { _, err := there.Read(make([]byte, 1)); return err })
		blocks("read by a stranger", func() error { _, err := stranger.Read(make([]byte, 1)); return err })
		synctest.Wait()
		assert.Empty(t, over)
		blocks("close", p.Close)
		blocks("close again", p.Close)
		all.Wait()
		assert.Less(t, time.Since(began), handshakeTimeout/2)
		for what, err := range over {
			switch what {
			case "close", "close again":
				assert.NoError(t, err)
			case "read by the peer", "read by a stranger":
				assert.Error(t, err)
			default:
				assert.ErrorIs(t, err, net.ErrClosed, what)
			}
		}
		assert.Len(t, over, 9)
		assert.NoError(t, p.Close())

		_, err = p.Dial(t.Context(), RPC, peer.Addr())
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = p.Gossip().WriteTo([]byte("x"), peer.Addr())
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = peer.Dial(t.Context(), RPC, p.Addr())
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		assert.Zero(t, p.held())
	})
}

// Close of a stream does not wait for a peer that has stopped reading: its caller may
// hold a lock.
func TestCloseOfAStreamDoesNotWait(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, peer := open(t, at(1).config("a")), open(t, at(2).config("a"))
		c, err := p.Dial(t.Context(), RPC, peer.Addr())
		require.NoError(t, err)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Second)))
		_, err = c.Write(make([]byte, 1<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		began := time.Now()
		assert.NoError(t, c.Close())
		assert.Zero(t, time.Since(began))
	})
}

func TestClosedPortCanBeOpenedAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		first, peer := open(t, at(1).config("a")), open(t, at(2).config("a"))
		require.NoError(t, exchange(peer, first))
		require.NoError(t, exchange(first, peer))
		require.NoError(t, first.Close())
		cfg := at(1).config("a")
		cfg.Bind = first.Addr()
		second := open(t, cfg)
		assert.Equal(t, first.Addr(), second.Addr())
		assert.NoError(t, exchange(peer, second))
		assert.NoError(t, exchange(second, peer))
	})
}

// A Raft stream to a node is refused by another one at its address, before that one decides
// whether to admit the peer: it may join the peer's cluster by that.
func TestRaftStreamIsForOneNode(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		cfg := at(1).config("a")
		cfg.Admit = func(Kind, Hello) error { t.Error("asked to admit a stream for another node"); return nil }
		p, peer := open(t, cfg), open(t, at(2).config("a"))
		_, err := peer.Raft().Dial(RaftAddr("former", p.Addr()), time.Second)
		var refused *RefusedError
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, fmt.Sprintf("this is node %q, not %q", p.Hello().Node, "former"), refused.Reason)
	})
}

// CloseKind closes the streams of that kind for both sides, and no others.
func TestCloseKindLeavesTheOthers(t *testing.T) {
	inMemory(t, func(t *testing.T, n *memnet.Net, at func(int) host) {
		p, peer := open(t, at(1).config("a")), open(t, at(2).config("a"))
		n.Cut(at(1).ip, at(3).ip)
		dialled, err := p.Raft().Dial(raftAddr(peer), time.Second)
		require.NoError(t, err)
		waiting, err := peer.Raft().Dial(raftAddr(p), time.Second)
		require.NoError(t, err)
		other, err := peer.Dial(t.Context(), RPC, p.Addr())
		require.NoError(t, err)
		there, err := p.RPC().Accept()
		require.NoError(t, err)
		dialling := make(chan error)
		go func() {
			_, err := p.Raft().Dial(RaftAddr("node", at(3).ip+":7946"), time.Hour)
			dialling <- err
		}()
		synctest.Wait()

		began := time.Now()
		assert.NoError(t, p.Raft().Close())
		assert.NoError(t, p.Raft().Close())
		awaitEnd(dialled)
		awaitEnd(waiting)
		assert.ErrorIs(t, <-dialling, net.ErrClosed)
		assert.Zero(t, time.Since(began))
		_, err = p.Raft().Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = p.Raft().Dial(raftAddr(peer), time.Second)
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = p.Dial(t.Context(), Raft, peer.Addr())
		assert.ErrorIs(t, err, net.ErrClosed)
		late, err := peer.Dial(t.Context(), Raft, p.Addr())
		require.NoError(t, err, "its handshake succeeds, then it is closed")
		awaitEnd(late)

		assert.NoError(t, echo(other, there))
		assert.NoError(t, exchange(p, peer))
		assert.NoError(t, exchange(peer, p))
	})
}

// flawed is a network whose listeners fail at first, as they do while too many files
// are open.
type flawed struct {
	Network
	failures *atomic.Int32
}

func (f flawed) Listen(addr string) (net.Listener, error) {
	l, err := f.Network.Listen(addr)
	return flawedListener{l, f.failures}, err
}

type flawedListener struct {
	net.Listener
	failures *atomic.Int32
}

func (l flawedListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestPortSurvivesFailuresToAccept(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		var failures atomic.Int32
		failures.Store(10)
		cfg := at(1).config("a")
		cfg.Network = flawed{cfg.Network, &failures}
		p, peer := open(t, cfg), open(t, at(2).config("a"))
		assert.NoError(t, exchange(peer, p))
		assert.NoError(t, p.Close())

		failures.Store(1 << 30) // for ever: it can be closed nevertheless
		p = open(t, cfg)
		time.Sleep(time.Minute)
		assert.NoError(t, p.Close())
	})
}

func TestStreamsAndPacketsShareAPortNumber(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		p := open(t, at(1).config("a"))
		_, streams, err := net.SplitHostPort(p.streams.Addr().String())
		require.NoError(t, err)
		_, packets, err := net.SplitHostPort(p.packets.LocalAddr().String())
		require.NoError(t, err)
		assert.Equal(t, streams, packets)
		assert.Equal(t, p.Addr(), p.RPC().Addr().String())

		ip, port, err := p.Gossip().FinalAdvertiseAddr("", 0)
		require.NoError(t, err)
		assert.Equal(t, p.Addr(), net.JoinHostPort(ip.String(), fmt.Sprint(port)))

		peer := open(t, at(2).config("a"))
		_, err = peer.Gossip().WriteToAddress([]byte("sealed"), memberlist.Address{Addr: p.Addr()})
		require.NoError(t, err)
		packet := <-p.Gossip().PacketCh()
		assert.Equal(t, "sealed", string(packet.Buf))
		assert.Equal(t, peer.Addr(), packet.From.String())
	})
}

// Packets that memberlist does not take in time are dropped, and block no stream.
func TestPacketsBeyondTheBufferAreDropped(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, peer := open(t, at(1).config("a")), open(t, at(2).config("a"))
		for i := range 1000 {
			_, err := peer.Gossip().WriteTo(fmt.Append(nil, i), p.Addr())
			require.NoError(t, err)
			synctest.Wait()
		}
		assert.Len(t, p.gossip.packets, cap(p.gossip.packets))
		assert.Equal(t, "0", string((<-p.Gossip().PacketCh()).Buf))
		assert.NoError(t, exchange(peer, p))
	})
}

func TestOpenErrors(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		taken := open(t, at(1).config("a")).Addr()
		_, number, err := net.SplitHostPort(taken)
		require.NoError(t, err)
		forPackets, err := at(1).ListenPacket(at(1).ip + ":0")
		require.NoError(t, err)
		defer forPackets.Close()
		for _, tt := range []struct {
			bind, advertise string
			secret          Secret
			want            string
		}{
			{"7946", "", "a", "missing port"},
			{taken, "", "a", "listen on " + taken},
			{forPackets.LocalAddr().String(), "", "a", "address already in use"},
			{"0.0.0.0:0", "", "", "bind 0.0.0.0:0 without a secret"},
			{":" + number, "", "", "without a secret: want a secret, or a loopback address"},
			{"10.0.0.1:0", "", "", "without a secret"},
			{"127.0.0.1:0", "10.0.0.1:7946", "", "without a secret"},
			{at(1).ip + ":0", "10.0.0.1", "a", "missing port"},
			{at(1).ip + ":0", "0.0.0.0:7946", "a", "advertise 0.0.0.0:7946: want an address at which others reach this node"},
			{at(1).ip + ":0", "[::]:7946", "a", "want an address at which others reach this node"},
		} {
			p, err := Open(Config{Network: at(1), Bind: tt.bind, Advertise: tt.advertise, Secret: tt.secret, Logger: slog.New(slog.DiscardHandler)})
			if !assert.ErrorContains(t, err, tt.want, "%+v", tt) {
				p.Close()
			}
		}
		cfg := at(1).config("a")
		cfg.Bind = forPackets.LocalAddr().String()
		forPackets.Close()
		open(t, cfg) // the failure has released the port
	})
}

// A configured address takes precedence, a name stands for its first address, and port
// 0 for the port that was bound.
func TestAdvertisedAddress(t *testing.T) {
	inMemory(t, func(t *testing.T, n *memnet.Net, at func(int) host) {
		n.Name("one.internal", "192.0.2.1", "192.0.2.2")
		for _, tt := range []struct{ advertise, want string }{
			{"", "10.0.0.1:7946"},
			{"192.0.2.7:1234", "192.0.2.7:1234"},
			{"192.0.2.7:0", "192.0.2.7:7946"},
			{"[2001:db8::1]:1234", "[2001:db8::1]:1234"},
			{"one.internal:0", "192.0.2.1:7946"},
		} {
			p := open(t, Config{Network: at(1), Bind: "10.0.0.1:7946", Advertise: tt.advertise, Secret: "a"})
			assert.Equal(t, tt.want, p.Addr())
			assert.NoError(t, p.Close())
		}
		_, err := Open(Config{Network: at(1), Bind: "10.0.0.1:7946", Advertise: "two.internal:7946", Secret: "a"})
		assert.ErrorContains(t, err, "advertise two.internal:7946")
		assert.ErrorContains(t, err, "no such host")
	})
}

func TestLoopbackNeedsNoSecret(t *testing.T) {
	for _, bind := range []string{"127.0.0.1:0", "localhost:0"} {
		one := open(t, Config{Network: System, Bind: bind})
		two := open(t, Config{Network: System, Bind: bind, Advertise: bind})
		assert.Regexp(t, `^127\.0\.0\.1:[1-9]`, two.Addr())
		assert.NoError(t, exchange(one, two))
		assert.Error(t, exchange(one, open(t, Config{Network: System, Bind: bind, Secret: "a"})))
	}
}
