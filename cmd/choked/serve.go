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

// options are the flags of serve.
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
	f.StringVar(&o.tokens, "tokens", "", "`file` of the tokens that admit clients, see choked token; read again when it changes.\nWithout it every client is admitted, and -listen has to be a loopback address")
	f.BoolVar(&o.insecure, "insecure", false, "allow -listen on any address without -tokens")
	f.StringVar(&o.cert, "tls-cert", "", "`file` with the certificate and its intermediates in PEM; read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "`file` with the key of -tls-cert in PEM")
	f.IntVar(&o.perSource, "conns-per-source", 1000, "most open `connections` from one address; clients behind one ingress or NAT share an address.\nConnections above it are closed")
	f.StringVar(&o.node.Name, "name", "", "`name` of this node in logs and status (default the host name)")
	f.StringVar(&o.node.Bind, "bind", "", "`host:port` for traffic between nodes, TCP and UDP (default :7946, or without -secret 127.0.0.1:7946)")
	f.StringVar(&o.node.Advertise, "advertise", "", "`host:port` at which other nodes reach this one (default the address of -bind, or the one from which traffic to -join leaves)")
	f.Var(list{&o.node.Join}, "join", "`host:port,...` of the nodes, the same list on all of them; a DNS name stands for all its addresses;\nmay be repeated. The node that answers at the first address founds the cluster. Empty: a cluster of this node alone")
	f.IntVar(&o.node.Expect, "expect", 0, "`number` of nodes to wait for before a cluster is founded, the same on all of them.\nSet it if -join is one DNS name or a virtual address")
	f.StringVar(&o.node.Secret, "secret", "", "`secret` that all nodes share; prefer CHOKED_SECRET or -secret-file, since other users can see command lines")
	f.StringVar(&o.secretFile, "secret-file", "", "`file` with the secret, in place of -secret")
	f.either("secret", "secret-file")
	f.Var(each{&o.node.PreviousSecrets}, "previous-secret", "`secret` that is still accepted from other nodes, while the secret is being changed; may be repeated")
	f.StringVar(&o.node.Dir, "dir", "", "`directory` of the Raft log and snapshots; without it the node keeps them in memory and forgets them when it stops")
	f.BoolVar(&o.node.Recover, "recover", false, "found a new cluster with the state in -dir, if the other voters are gone for good: for one start of one node")
	f.TextVar(&o.node.ColdStart, "cold-start", cluster.Full, "`full or empty`: level of the buckets when a cluster begins without a log of earlier ones")
	f.IntVar(&o.node.Voters, "voters", 3, "`number` of nodes that vote and keep the log: 1, 3 or 5")
	f.TextVar(&o.level, "log", slog.LevelInfo, "lowest `level` to log: debug, info, warn or error")
	f.DurationVar(&o.drain, "drain", 0, "`delay` between failing /readyz and stopping, so that load balancers notice")
	f.DurationVar(&o.stop, "stop", 10*time.Second, "longest `time` for open requests to end before they are cut off")
}

// check returns why the options are invalid or unsafe, or nil. It reads the secret
// file.
func (o *options) check() error {
	if (o.cert == "") != (o.key == "") {
		return wrong("-tls-cert and -tls-key: want both or none")
	}
	if o.drain < 0 || o.stop < 0 {
		return wrong("-drain %v -stop %v: want 0 or more", o.drain, o.stop)
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
		return wrong("-listen %s without -tokens admits every client that reaches it: want -tokens, or -insecure to allow that", o.listen)
	}
	if o.secretFile != "" {
		if o.node.Secret != "" {
			return wrong("-secret and -secret-file are set in the same place: want one of them")
		}
		b, err := os.ReadFile(o.secretFile)
		if err != nil {
			return fmt.Errorf("-secret-file: %w", err)
		}
		if o.node.Secret = strings.TrimSpace(string(b)); o.node.Secret == "" {
			return wrong("-secret-file %s: file is empty", o.secretFile)
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
	cfg.Healthy = node.SteppedOut
	cfg.Cluster = func() server.Cluster { return describe(node) }
	s := server.New(cfg)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends with Shutdown
	log.Info("serving", "listen", l.Addr().String(), "tls", cfg.TLS != nil, "tokens", cfg.Tokens != nil, "nodes", node.Addr())

	select {
	case err = <-served: // the listener failed
		served <- nil
	case <-ctx.Done():
		log.Info("stopping")
		s.MarkNotReady()
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

// ready returns nil if node can decide, or why it cannot.
func ready(node *cluster.Node) error {
	if err := node.Health(); err != nil {
		return err
	}
	if _, ok := node.Leader(); !ok {
		return errors.New("no leader")
	}
	return nil
}

// describe returns the cluster as node knows it.
func describe(node *cluster.Node) server.Cluster {
	var c server.Cluster
	leader, _ := node.Leader()
	for _, m := range node.Members() {
		c.Members = append(c.Members, server.Member{
			ID: m.ID, Name: m.Name, Addr: m.Addr, Leader: m.ID == leader.ID, Voter: m.Voter, Sick: m.DiskFailed, Self: m.Self,
		})
	}
	for i, name := range labels(c.Members) {
		if c.Members[i].Self {
			c.Node = name
		}
		if c.Members[i].Leader {
			c.Leader = name
		}
	}
	q := node.Quorum()
	c.Voters, c.Degraded, c.NoQuorum = q.Voters, q.String(), q.Lost()
	for _, m := range q.Missing {
		c.Gone = append(c.Gone, server.Gone{ID: m.ID, Name: m.Name, Addr: m.Addr, Sick: m.DiskFailed, For: time.Since(m.Since)})
	}
	return c
}

// labels returns the names of members. A part of the id follows a name that two of
// them have.
func labels(members []server.Member) []string {
	times := make(map[string]int)
	for _, m := range members {
		times[m.Name]++
	}
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Name
		if times[m.Name] > 1 {
			names[i] += "/" + m.ID[:min(len(m.ID), 6)]
		}
	}
	return names
}
