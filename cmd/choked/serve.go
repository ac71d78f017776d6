package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/choked/choked/cluster"
	"github.com/choked/choked/server"
)

// options are what the flags of serve say.
type options struct {
	listen     string
	tokens     string
	insecure   bool
	cert, key  string
	perSource  int
	node       cluster.Config
	secretFile string
	level      slog.Level
	drain      time.Duration
	stop       time.Duration
}

func serveFlags(f *flags, o *options) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:7980", "`host:port` of the HTTP API")
	f.StringVar(&o.tokens, "tokens", "", "`file` of the tokens that admit, see choked token; read again when it changes. Without\none everyone is let in, and only a loopback address can be listened on")
	f.BoolVar(&o.insecure, "insecure", false, "listen on any address without -tokens")
	f.StringVar(&o.cert, "tls-cert", "", "`file` of the certificate, and those that vouch for it; read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "`file` of its key")
	f.IntVar(&o.perSource, "conns-per-source", 1000, "connections from one address at a time, those of all clients behind an ingress or a NAT; more are closed")
	f.StringVar(&o.node.Name, "name", "", "of this node, for people (default the host's name)")
	f.StringVar(&o.node.Bind, "bind", "", "`host:port` for the other nodes, TCP and UDP (default :7946, or without -secret 127.0.0.1:7946)")
	f.StringVar(&o.node.Advertise, "advertise", "", "`host:port` at which the other nodes reach this one (default that of -bind)")
	f.Var(list{&o.node.Join}, "join", "`host:port,...` of other nodes, the same on all of them; a DNS name stands for all its addresses;\nmay be given again. The address that comes first founds the cluster. None: this node is alone")
	f.StringVar(&o.node.Secret, "secret", "", "that all nodes share; better by CHOKED_SECRET or -secret-file, for others see a command line")
	f.StringVar(&o.secretFile, "secret-file", "", "`file` that holds the secret")
	f.Var(each{&o.node.PreviousSecrets}, "previous-secret", "`secret` that is still accepted from others, while it is changed; may be given again")
	f.StringVar(&o.node.Dir, "dir", "", "`directory` of the log; without one the node starts anew each time")
	f.TextVar(&o.node.ColdStart, "cold-start", cluster.Full, "`full or empty`: how buckets begin in a cluster that has lost, or never had, all knowledge of them")
	f.IntVar(&o.node.Voters, "voters", 3, "nodes that keep the log: 1, 3 or 5")
	f.TextVar(&o.level, "log", slog.LevelInfo, "`level` from which on things are logged: debug, info, warn or error")
	f.DurationVar(&o.drain, "drain", 0, "`time` between being not ready any more and stopping, for who balances load to notice")
	f.DurationVar(&o.stop, "stop", 10*time.Second, "`time` for requests under way to end, then they are cut off")
}

// check reports what cannot be, or is not safe.
func (o *options) check() error {
	if (o.cert == "") != (o.key == "") {
		return wrong("-tls-cert and -tls-key: want both or none")
	}
	if o.drain < 0 || o.stop < 0 {
		return wrong("-drain %v -stop %v: want no negative time", o.drain, o.stop)
	}
	if o.perSource < 1 {
		return wrong("-conns-per-source %d: want 1 or more", o.perSource)
	}
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return wrong("-listen %.80q: want host:port", o.listen)
	}
	addr, _ := netip.ParseAddr(host)
	if o.tokens == "" && !o.insecure && host != "localhost" && !addr.IsLoopback() {
		return wrong("-listen %s without -tokens: everyone who gets there would be let in; want -tokens, or -insecure if that is meant", o.listen)
	}
	if o.secretFile != "" {
		if o.node.Secret != "" {
			return wrong("-secret and -secret-file: want one of them")
		}
		b, err := os.ReadFile(o.secretFile)
		if err != nil {
			return fmt.Errorf("-secret-file: %w", err)
		}
		if o.node.Secret = strings.TrimSpace(string(b)); o.node.Secret == "" {
			return wrong("-secret-file %s: it is empty", o.secretFile)
		}
	}
	return nil
}

// serve runs a node and its HTTP API until ctx ends.
func serve(ctx context.Context, f *flags, args []string) (err error) {
	var o options
	serveFlags(f, &o)
	if err := f.parse(args, 0, 0, ""); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(f.stderr, &slog.HandlerOptions{Level: o.level}))
	cfg := server.Config{ConnsPerSource: o.perSource, Logger: log}
	if o.tokens != "" {
		if cfg.Tokens, err = server.OpenTokens(o.tokens, log); err != nil {
			return err
		}
	}
	if o.cert != "" {
		certs, err := openCertificate(o.cert, o.key, log)
		if err != nil {
			return err
		}
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.get}
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	o.node.Logger = log
	node, err := cluster.Start(o.node)
	if err != nil {
		return err
	}
	cfg.Store = node
	cfg.Ready = func() error { return ready(node) }
	cfg.Cluster = func() (self, leader string, members []server.Member) {
		for _, m := range node.Members() {
			members = append(members, server.Member{Name: m.Name, Addr: m.Addr, Leader: m.Leader, Voter: m.Voter, Sick: m.DiskFailed, Self: m.Self})
			if m.Self {
				self = m.Name
			}
		}
		m, _ := node.Leader()
		return self, m.Name, members
	}
	s := server.New(cfg)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends with Shutdown
	log.Info("serving", "listen", l.Addr().String(), "tls", cfg.TLS != nil, "tokens", cfg.Tokens != nil, "nodes", node.Addr())

	select {
	case err = <-served: // the listener has failed
		served <- nil
	case <-ctx.Done():
		log.Info("stopping")
		s.SayNotReady()
		select {
		case <-time.After(o.drain):
		case err = <-served:
			served <- nil
		}
	}
	stopping, cancel := context.WithTimeout(context.Background(), o.stop)
	defer cancel()
	err = errors.Join(err, s.Shutdown(stopping))
	err = errors.Join(err, <-served, node.Close())
	log.Info("stopped")
	return err
}

// ready reports what keeps a node from deciding.
func ready(node *cluster.Node) error {
	if err := node.Health(); err != nil {
		return err
	}
	if _, ok := node.Leader(); !ok {
		return errors.New("there is no leader")
	}
	return nil
}
