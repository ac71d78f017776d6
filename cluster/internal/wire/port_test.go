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

// open opens a port that says its address for a name and admits everybody,
// unless cfg says otherwise, and closes it at the end of the test.
func open(t *testing.T, cfg Config) *Port {
	t.Helper()
	if cfg.Hello == nil {
		cfg.Hello = func() Hello { return Hello{Node: "node at " + cfg.Bind} }
	}
	if cfg.Admit == nil {
		cfg.Admit = func(Kind, Hello) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// raftAddr is where Raft finds the node behind p.
func raftAddr(p *Port) raft.ServerAddress { return RaftAddr(p.cfg.Hello().Node, p.Addr()) }

// speak has one port dial another, and each hear the other.
func speak(from, to *Port) error {
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
	return hear(here, there)
}

// hear reports why the ends of a stream do not hear each other.
func hear(here, there net.Conn) error {
	for _, way := range []struct {
		from io.Writer
		to   io.Reader
	}{{here, there}, {there, here}} {
		heard := make([]byte, len("hear me"))
		_, sent := io.WriteString(way.from, "hear me")
		_, err := io.ReadFull(way.to, heard)
		if err = errors.Join(sent, err); err != nil || string(heard) != "hear me" {
			return fmt.Errorf("%q was heard: %w", heard, err)
		}
	}
	return nil
}

// host is a place for a port.
type host struct {
	Network
	ip string
}

// config is that of a port of its own kind at the host.
func (h host) config(secret Secret) Config {
	return Config{Network: h, Bind: h.ip + ":0", Secret: secret}
}

// everywhere runs f on hosts in memory and on this machine's own network.
func everywhere(t *testing.T, f func(t *testing.T, at func(i int) host)) {
	t.Run("in memory", func(t *testing.T) {
		inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) { f(t, at) })
	})
	t.Run("loopback", func(t *testing.T) {
		f(t, func(int) host { return host{System, "127.0.0.1"} })
	})
}

// inMemory runs f in a bubble, which fails if a goroutine is left at the end.
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

// ended waits until the other side of raw has closed it.
func ended(raw net.Conn) {
	io.Copy(io.Discard, raw) //nolint:errcheck // a reset is an end, too
}

// assertNobodyCame fails if a stream of any kind has been accepted.
func assertNobodyCame(t *testing.T, p *Port) {
	t.Helper()
	for kind, a := range p.taken {
		assert.Empty(t, a.conns, kind)
	}
	select {
	case c := <-p.Gossip().StreamCh():
		assert.Fail(t, "gossip has a stream", "from %s", c.RemoteAddr())
	default:
	}
}

// journal is a log to look into.
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

// member returns what a holder of secret has to dial with, for strangers that
// leave out a part of it. Whom they dial they do not verify.
func member(t *testing.T, secret Secret, kinds ...string) *tls.Config {
	cfg, err := credentials(secret, nil)
	require.NoError(t, err)
	cfg.InsecureSkipVerify = true
	cfg.NextProtos = kinds
	return cfg
}

// impostor is a member whose certificate nobody vouches for, and says that it is
// of some unit.
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

// Whatever a stranger says, the port ends the stream, notes why, and nobody
// behind it has seen it.
func TestStrangersAreRefused(t *testing.T) {
	hello := appendHello(nil, Hello{Node: "stranger"})
	overTLS := func(what []byte, cfg func(t *testing.T) *tls.Config) func(*testing.T, net.Conn) {
		return func(t *testing.T, raw net.Conn) {
			tls.Client(raw, cfg(t)).Write(what) //nolint:errcheck // the port may have hung up by then
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
		{"a certificate that nobody vouches for", overTLS(hello, func(t *testing.T) *tls.Config { return impostor(t, "") }), "unknown authority"},
		{"a certificate of 1 MB", overTLS(hello, func(t *testing.T) *tls.Config { return impostor(t, strings.Repeat("x", 1<<20)) }), "exceeds maximum"},
		{"TLS 1.2", overTLS(hello, func(t *testing.T) *tls.Config {
			cfg := member(t, "a", kinds...)
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return cfg
		}), "unsupported versions"},
		{"no protocol", overTLS(hello, func(t *testing.T) *tls.Config { return member(t, "a") }), `protocol \"\": want one of`},
		{"another protocol", overTLS(hello, func(t *testing.T) *tls.Config { return member(t, "a", "h2", "choked-raft/2") }), "unsupported application protocols"},
		{"a bad hello", overTLS([]byte("hello, who is there?"), func(t *testing.T) *tls.Config { return member(t, "a", kinds...) }), "read hello"},
		{"a hello without end", overTLS([]byte(magic+"\xff"), func(t *testing.T) *tls.Config { return member(t, "a", kinds...) }), "want 0 to 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, at func(int) host) {
				var log journal
				cfg := at(1).config("a")
				cfg.Logger = log.logger()
				cfg.Admit = func(Kind, Hello) error { return errors.New("nobody should have asked") }
				p := open(t, cfg)
				raw := dial(t, at(2), p)
				tt.say(t, raw)
				ended(raw)
				assert.Contains(t, log.String(), "stream refused")
				assert.Contains(t, log.String(), tt.want)
				assertNobodyCame(t, p)
			})
		})
	}
}

// Nothing that a stranger says begins a line of its own in the log, or speaks to
// the terminal that shows it.
func TestStrangersCannotForgeLogLines(t *testing.T) {
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
			ended(raw)
			said := strings.TrimPrefix(log.String(), before)
			assert.Contains(t, said, "stream refused", name)
			assert.Equal(t, 1, strings.Count(said, "\n"), "%s: %s", name, said)
			assert.NotContains(t, said, "\x1b", name)
			assert.NotContains(t, said, "\x00", name)
		}
	})
}

// What the strangers above are refused for, they would come in by.
func TestHolderOfTheSecretComesIn(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		p := open(t, at(1).config("a"))
		for _, kind := range kinds {
			stream := tls.Client(dial(t, at(2), p), member(t, "a", kind))
			peer, err := greet(stream, p.Addr(), Hello{Node: "stranger"})
			require.NoError(t, err)
			assert.Equal(t, p.cfg.Hello(), peer)
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

// plainLayer is a way for Raft that knows of no TLS.
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

// Raft's own transport, without TLS, gets none of its packets to the Raft
// behind the port; within TLS, it does.
func TestForgedRaftPacketsReachNobody(t *testing.T) {
	everywhere(t, func(t *testing.T, at func(int) host) {
		victim := open(t, at(1).config("a"))
		behind := transport(t, victim.Raft())
		var heard atomic.Int32
		behind.SetHeartbeatHandler(func(rpc raft.RPC) {
			heard.Add(1)
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
		assertNobodyCame(t, victim)
		assert.Empty(t, behind.Consumer())
		assert.Zero(t, heard.Load())

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
		assert.EqualValues(t, 1, heard.Load(), "the heartbeat takes its own way")
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
		for _, p := range []*Port{one, two} {
			assertNobodyCame(t, p)
			assert.NoError(t, p.Close())
			assert.Empty(t, p.conns)
		}
	})
}

// Who dials says nothing to a listener that does not prove that it holds the
// secret.
func TestDialSaysNothingToStrangers(t *testing.T) {
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
			heard := make(chan []byte, 1)
			go func() {
				raw, err := l.Accept()
				if !assert.NoError(t, err) {
					return
				}
				defer raw.Close()
				b, _ := io.ReadAll(tls.Server(raw, cfg))
				heard <- b
			}()
			_, err := p.Dial(t.Context(), RPC, l.Addr().String())
			assert.ErrorContains(t, err, "failed to verify certificate", name)
			assert.Empty(t, <-heard, name)
		}
	})
}

// gossiper is a memberlist over a port that notes what it hears.
type gossiper struct {
	*memberlist.Memberlist
	mu    sync.Mutex
	heard []string
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
	g.heard = append(g.heard, string(b))
}

func (g *gossiper) NodeMeta(int) []byte               { return nil }
func (g *gossiper) GetBroadcasts(int, int) [][]byte   { return nil }
func (g *gossiper) LocalState(bool) []byte            { return nil }
func (g *gossiper) MergeRemoteState(_ []byte, _ bool) {}

// A packet that is not sealed with a key of the cluster changes nothing.
func TestForgedGossipReachesNobody(t *testing.T) {
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
		assert.ElementsMatch(t, []string{"from friend", "from next"}, list.heard)
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

// strangersOf counts those whom the port does not know yet, as it sees them.
func (p *Port) strangersOf(ip string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.strangers[netip.MustParseAddr(ip)]
}

// held counts the streams that the port knows of.
func (p *Port) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Those who come and say nothing are sent away after two seconds. Until then
// they keep out their like, and nobody else.
func TestSilentStrangersKeepNobodyOut(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, good := open(t, at(1).config("a")), open(t, at(2).config("a"))
		crowd := at(3)
		var sent atomic.Int32
		began := time.Now()
		var all sync.WaitGroup
		for i := range 500 {
			raw := dial(t, crowd, p)
			if i%2 == 1 {
				raw.Write([]byte{0x16}) // as a handshake begins
			}
			all.Go(func() {
				ended(raw)
				if time.Since(began) == 0 {
					sent.Add(1)
				}
			})
			if i%50 == 0 {
				synctest.Wait()
				assert.LessOrEqual(t, p.strangersOf(crowd.ip), maxStrangersBy)
			}
		}
		synctest.Wait()
		assert.Equal(t, maxStrangersBy, p.strangersOf(crowd.ip))
		assert.EqualValues(t, 500-maxStrangersBy, sent.Load(), "the rest was sent away at once")
		assert.NoError(t, speak(good, p))
		assert.Zero(t, time.Since(began), "they kept nobody waiting")

		time.Sleep(handshakeWithin - 1)
		assert.Equal(t, maxStrangersBy, p.strangersOf(crowd.ip))
		time.Sleep(time.Nanosecond)
		all.Wait()
		synctest.Wait()
		assert.Equal(t, handshakeWithin, time.Since(began))
		assert.Zero(t, p.strangersOf(crowd.ip))
		assert.Zero(t, p.held())
		assert.Empty(t, p.strangers)
		assertNobodyCame(t, p)
		assert.NoError(t, speak(good, p))
	})
}

// However many places they come from, there is an end to them.
func TestStrangersFromManyPlaces(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p := open(t, at(1).config("a"))
		for i := range 20 {
			for range 60 {
				dial(t, at(100+i), p)
			}
			synctest.Wait()
			assert.Equal(t, min(60*(i+1), maxStrangers), p.held())
		}
		time.Sleep(handshakeWithin)
		synctest.Wait()
		assert.Zero(t, p.held())
		assert.NoError(t, speak(open(t, at(2).config("a")), p))
	})
}

func TestPortKeepsOnlySoManyConnections(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, good := open(t, at(1).config("a")), open(t, at(2).config("a"))
		var others []net.Conn
		for range maxConns {
			c, _ := net.Pipe()
			others = append(others, c)
			p.remember(c, RPC)
		}
		assert.Error(t, speak(good, p))
		p.forget(others[0])
		assert.NoError(t, speak(good, p))
	})
}

// The two seconds are for all of a stream's beginning, and no step of it starts
// them anew.
func TestSlowStrangersAreSentAwayInTime(t *testing.T) {
	for name, say := range map[string]func(t *testing.T, raw net.Conn){
		"byte by byte": func(t *testing.T, raw net.Conn) {
			for i := 0; ; i++ { // a record that never ends
				if _, err := raw.Write([]byte("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + strings.Repeat("x", 100))[i:][:1]); err != nil {
					return
				}
				time.Sleep(handshakeWithin / 20)
			}
		},
		"late": func(t *testing.T, raw net.Conn) {
			time.Sleep(handshakeWithin - time.Millisecond)
			tls.Client(raw, member(t, "a", kinds...)).Handshake()
		},
		"without a hello": func(t *testing.T, raw net.Conn) {
			tls.Client(raw, member(t, "a", kinds...)).Handshake()
		},
		"half a hello": func(t *testing.T, raw net.Conn) {
			stream := tls.Client(raw, member(t, "a", kinds...))
			time.Sleep(handshakeWithin / 2)
			stream.Handshake()
			time.Sleep(handshakeWithin / 4)
			io.WriteString(stream, magic+"\x01c\x08half")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
				p := open(t, at(1).config("a"))
				began := time.Now()
				raw := dial(t, at(2), p)
				var said sync.WaitGroup
				said.Go(func() { say(t, raw) })
				time.Sleep(handshakeWithin - 1)
				assert.Equal(t, 1, p.strangersOf(at(2).ip))
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				assert.Zero(t, p.held())
				assert.Equal(t, handshakeWithin, time.Since(began))
				assertNobodyCame(t, p)
				said.Wait()
			})
		})
	}
}

// A listener that says nothing holds up who dials it no longer than it is held
// up by a silent dialler.
func TestDialOfSilentListenerEndsInTime(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p := open(t, at(1).config("a"))
		l, err := at(2).Listen(at(2).ip + ":0")
		require.NoError(t, err)
		for _, tt := range []struct{ limit, want time.Duration }{
			{time.Hour, handshakeWithin}, {time.Second, time.Second},
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

// A dial that is given up before there is a connection says why.
func TestDialThatIsGivenUpSaysWhy(t *testing.T) {
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

// nowhere is a network on which nobody answers.
type nowhere struct{ Network }

func (nowhere) Dial(ctx context.Context, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Once a peer is known, it may be silent for as long as it likes.
func TestKnownPeersMayBeSilent(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		one, two := open(t, at(1).config("a")), open(t, at(2).config("a"))
		here, err := one.Dial(t.Context(), RPC, two.Addr())
		require.NoError(t, err)
		there, err := two.RPC().Accept()
		require.NoError(t, err)
		time.Sleep(24 * time.Hour)
		assert.NoError(t, hear(here, there))
		assert.Equal(t, Hello{Node: "node at 10.0.0.2:0"}, here.Peer)
		assert.Equal(t, Hello{Node: "node at 10.0.0.1:0"}, there.(*Conn).Peer)
	})
}

// What an unknown peer says costs us no more than it has said, and a little.
func TestUnknownPeersAllocateLittle(t *testing.T) {
	p := open(t, host{System, "127.0.0.1"}.config("a"))
	junk := make([]byte, 1<<20)
	for name, head := range map[string]string{
		"a length of 2 GiB":             "\x7f\xff\xff\xff",
		"a record of 64 KiB":            "\x16\x03\x01\xff\xff",
		"a handshake message of 16 MiB": "\x16\x03\x01\x40\x00\x01\xff\xff\xff",
		"one of the most there may be":  "\x16\x03\x01\x40\x00\x01\x00\xff\xff",
	} {
		raw := dial(t, host{System, "127.0.0.1"}, p)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		raw.Write([]byte(head))
		for range 64 {
			if _, err := raw.Write(junk); err != nil {
				break // hung up
			}
		}
		raw.(*net.TCPConn).CloseWrite()
		ended(raw)
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20), name)
	}
}

// The same behind TLS, from one who holds the secret and sends no hello: the
// header of its first message says 2 GiB.
func TestHelloAllocatesLittle(t *testing.T) {
	p := open(t, host{System, "127.0.0.1"}.config("a"))
	for _, head := range []string{"\x7f\xff\xff\xff", magic + "\xff", magic + "\x40" + strings.Repeat("\xff", 1000)} {
		stream := tls.Client(dial(t, host{System, "127.0.0.1"}, p), member(t, "a", kinds...))
		require.NoError(t, stream.Handshake())
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		io.WriteString(stream, head)
		stream.CloseWrite()
		ended(stream.NetConn())
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20))
	}
}

// Who is not admitted is told why, and so is whoever asked to be told.
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
		var told []string
		cfg.Refused = func(kind Kind, err *RefusedError) { told = append(told, string(kind)+": "+err.Error()) }
		two := open(t, cfg)

		for _, kind := range []Kind{Raft, RPC} {
			_, err := two.Dial(t.Context(), kind, one.Addr())
			var refused *RefusedError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, RefusedError{Addr: one.Addr(), Reason: fmt.Sprintf("no %s for two of theirs", kind)}, *refused)
		}
		assert.Equal(t, []string{
			fmt.Sprintf("choked-raft/1: %s refuses: no choked-raft/1 for two of theirs", one.Addr()),
			fmt.Sprintf("choked-rpc/1: %s refuses: no choked-rpc/1 for two of theirs", one.Addr()),
		}, told)

		welcome, err := two.Dial(t.Context(), Gossip, one.Addr())
		require.NoError(t, err)
		assert.Equal(t, Hello{Cluster: "ours", Node: "one"}, welcome.Peer)
		there := <-one.Gossip().StreamCh()
		assert.NoError(t, hear(welcome, there))
		assertNobodyCame(t, one)
		assert.Len(t, told, 2)

		_, err = open(t, at(2).config("a")).Dial(t.Context(), RPC, one.Addr()) // nobody asked to be told
		assert.ErrorContains(t, err, "refuses")
		require.NoError(t, one.Close())
		assert.Equal(t, 3, strings.Count(log.String(), "stream refused"))
		assert.Contains(t, log.String(), "no choked-rpc/1 for two of theirs")
	})
}

// Streams that nobody takes are closed once there are too many.
func TestStreamsThatNobodyTakes(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		one, two := open(t, at(1).config("a")), open(t, at(2).config("a"))
		var streams []*Conn
		for range backlog + 1 {
			c, err := one.Dial(t.Context(), RPC, two.Addr())
			require.NoError(t, err)
			streams = append(streams, c)
			synctest.Wait() // until it is offered
		}
		ended(streams[backlog])
		assert.Equal(t, backlog, two.held())
		there, err := two.RPC().Accept()
		require.NoError(t, err)
		assert.NoError(t, hear(streams[0], there), "who came first is served first")
		c, err := one.Dial(t.Context(), Raft, two.Addr())
		require.NoError(t, err, "other kinds have room of their own")
		c.Close()
	})
}

// In a bubble: what a port has started has ended with it.
func TestCloseEndsEverything(t *testing.T) {
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
		assert.Less(t, time.Since(began), handshakeWithin/2)
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

// Who closes a stream may hold what others need. It does not wait for a peer that
// has stopped reading.
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
		require.NoError(t, speak(peer, first))
		require.NoError(t, speak(first, peer))
		require.NoError(t, first.Close())
		cfg := at(1).config("a")
		cfg.Bind = first.Addr()
		second := open(t, cfg)
		assert.Equal(t, first.Addr(), second.Addr())
		assert.NoError(t, speak(peer, second))
		assert.NoError(t, speak(second, peer))
	})
}

// A kind that is closed is over for both sides. The others go on.
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
		ended(dialled)
		ended(waiting)
		assert.ErrorIs(t, <-dialling, net.ErrClosed)
		assert.Zero(t, time.Since(began))
		_, err = p.Raft().Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = p.Raft().Dial(raftAddr(peer), time.Second)
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = p.Dial(t.Context(), Raft, peer.Addr())
		assert.ErrorIs(t, err, net.ErrClosed)
		late, err := peer.Dial(t.Context(), Raft, p.Addr())
		require.NoError(t, err, "it is known, and then closed")
		ended(late)

		assert.NoError(t, hear(other, there))
		assert.NoError(t, speak(p, peer))
		assert.NoError(t, speak(peer, p))
	})
}

// flawed is a network whose listeners fail at first, as they do when there are
// too many open files.
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

func TestPortOutlivesTrouble(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		var failures atomic.Int32
		failures.Store(10)
		cfg := at(1).config("a")
		cfg.Network = flawed{cfg.Network, &failures}
		p, peer := open(t, cfg), open(t, at(2).config("a"))
		assert.NoError(t, speak(peer, p))
		assert.NoError(t, p.Close())

		failures.Store(1 << 30) // for good: it can be closed nevertheless
		p = open(t, cfg)
		time.Sleep(time.Minute)
		assert.NoError(t, p.Close())
	})
}

func TestOneNumberForStreamsAndPackets(t *testing.T) {
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

// Packets that memberlist is too busy to take are lost, and hold up nobody.
func TestPacketsThatNobodyTakes(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		p, peer := open(t, at(1).config("a")), open(t, at(2).config("a"))
		for i := range 1000 {
			_, err := peer.Gossip().WriteTo(fmt.Append(nil, i), p.Addr())
			require.NoError(t, err)
			synctest.Wait()
		}
		assert.Len(t, p.gossip.packets, cap(p.gossip.packets))
		assert.Equal(t, "0", string((<-p.Gossip().PacketCh()).Buf))
		assert.NoError(t, speak(peer, p))
	})
}

func TestPortThatCannotBeOpened(t *testing.T) {
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
		open(t, cfg) // the failure left nothing behind
	})
}

// What is said comes first, a name stands for its first address, and port 0 for
// the one that was bound.
func TestAdvertisedAddress(t *testing.T) {
	inMemory(t, func(t *testing.T, n *memnet.Net, at func(int) host) {
		n.Name("one.internal", "192.0.2.1", "192.0.2.2")
		for _, tt := range []struct{ said, want string }{
			{"", "10.0.0.1:7946"},
			{"192.0.2.7:1234", "192.0.2.7:1234"},
			{"192.0.2.7:0", "192.0.2.7:7946"},
			{"[2001:db8::1]:1234", "[2001:db8::1]:1234"},
			{"one.internal:0", "192.0.2.1:7946"},
		} {
			p := open(t, Config{Network: at(1), Bind: "10.0.0.1:7946", Advertise: tt.said, Secret: "a"})
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
		assert.NoError(t, speak(one, two))
		assert.Error(t, speak(one, open(t, Config{Network: System, Bind: bind, Secret: "a"})))
	}
}
