package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/internal/httpapi"
	"github.com/choked/choked/internal/testkit/ports"
)

// mainEnv is the environment variable that makes the test binary run the command.
const mainEnv = "CHOKED_TEST_IS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// runCommand runs a command to its end.
func runCommand(t *testing.T, env map[string]string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, func(name string) string { return env[name] }, &out, &errs)
	return status, out.String(), errs.String()
}

// process is a running "choked serve".
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string // of the HTTP API
	done chan struct{}

	mu   sync.Mutex
	logs bytes.Buffer
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs.String()
}

var serving = regexp.MustCompile(`msg=serving listen=(\S+)`)

// start starts "choked serve" and returns when it listens.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.Command(program, append([]string{"serve"}, args...)...), done: make(chan struct{})}
	p.cmd.Env = append([]string{mainEnv + "=1", "PATH=" + os.Getenv("PATH")}, env...)
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	listens := make(chan string, 1)
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.logs, lines.Text())
			p.mu.Unlock()
			if m := serving.FindStringSubmatch(lines.Text()); m != nil {
				listens <- m[1]
			}
		}
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%v:\n%s", args, p.log())
		}
	})
	select {
	case p.addr = <-listens:
	case <-p.done:
		t.Fatalf("serve ended: %s", p.log())
	case <-time.After(20 * time.Second):
		t.Fatalf("serve does not listen: %s", p.log())
	}
	return p
}

// startAlone starts a service of one node.
func startAlone(t *testing.T, args ...string) *process {
	return start(t, nil, append([]string{"-listen", "127.0.0.1:0", "-bind", "127.0.0.1:0", "-name", "alone"}, args...)...)
}

// newToken creates a token in a new file of tokens.
func newToken(t *testing.T, namespace string) (token, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "tokens")
	status, out, errs := runCommand(t, nil, "token", "-file", file, namespace)
	require.Zero(t, status, errs)
	return strings.TrimSpace(out), file
}

// Some editors leave the last line without a newline.
func TestTokenIsAppendedAsALine(t *testing.T) {
	_, file := newToken(t, "team-a")
	first, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, bytes.TrimSpace(first), 0o600))
	for range 2 {
		status, _, errs := runCommand(t, nil, "token", "-file", file, "team-b")
		require.Zero(t, status, errs)
	}
	all, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Regexp(t, `^[0-9a-f]{64} team-a\n[0-9a-f]{64} team-b\n[0-9a-f]{64} team-b\n$`, string(all))
}

func TestServeFromStartToShutdown(t *testing.T) {
	token, file := newToken(t, "team-a")
	p := startAlone(t, "-tokens", file, "-log", "debug", "-secret", "SECRET-of-nodes")
	url := "http://" + p.addr
	store, err := httpstore.Open(httpstore.Config{URL: url, Token: token, Timeout: time.Second})
	require.NoError(t, err)
	choke := choked.New(store)
	limiter, err := choke.Limiter("openai_chat", choked.MustLimits("requests 50/s; tokens 100000/m"), nil)
	require.NoError(t, err)
	for range 60 {
		require.NoError(t, limiter.Wait(t.Context(), choked.Cost{Requests: 1, Tokens: 100}))
	}

	status, out, errs := runCommand(t, map[string]string{"CHOKED_TOKEN": token, "CHOKED_URL": url}, "status")
	require.Zero(t, status, errs)
	assert.Regexp(t, `^ready\n`, out)
	assert.Regexp(t, `openai_chat +50/s|openai_chat +requests 50/s; tokens 100000/m`, out)
	assert.NotContains(t, out, "alone", "nodes are shown to namespace * only")
	assert.Contains(t, out, "nodes are listed for tokens of the namespace * only")
	status, out, errs = runCommand(t, nil, "token", "-file", file, "*")
	require.Zero(t, status, errs)
	all := strings.TrimSpace(out)
	require.Eventually(t, func() bool { // until the server has read the file again
		_, out, _ = runCommand(t, nil, "status", "-url", url, "-token", all)
		return strings.Contains(out, "leader, this node")
	}, 5*time.Second, 50*time.Millisecond)
	assert.Contains(t, out, "team-a/openai_chat")
	status, out, _ = runCommand(t, nil, "status", "-url", url, "-token", all, "-json")
	assert.Zero(t, status)
	var st httpapi.Status
	require.NoError(t, json.Unmarshal([]byte(out), &st))
	assert.Equal(t, "alone", st.Leader)
	status, _, errs = runCommand(t, nil, "status", "-url", url, "-token", "choked_WRONG")
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, "unknown token")

	// On SIGTERM the server ends waiting requests and exits with status 0.
	require.NoError(t, choke.Close())
	waiting := make(chan int, 1)
	go func() {
		r, _ := http.NewRequest("GET", url+"/v2/acquire?key=k&request_limit=1/h&requests=1", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		for range 2 { // the first request takes the whole burst
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				waiting <- 0
				return
			}
			response.Body.Close()
			waiting <- response.StatusCode
		}
	}()
	assert.Equal(t, 200, <-waiting)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.Contains(t, []int{0, 429, 503}, <-waiting)
	<-p.done
	assert.Zero(t, p.cmd.ProcessState.ExitCode(), p.log())
	assert.Contains(t, p.log(), "msg=stopped")
	for _, secret := range []string{token, all, "SECRET", "WRONG"} {
		assert.NotContains(t, p.log(), secret)
	}
	_, err = store.Lease(t.Context(), choked.Ask{Key: "k", Limits: choked.MustLimits("requests 1/s")})
	assert.ErrorIs(t, err, bucket.ErrUnavailable)
	require.NoError(t, store.Close())
}

// writeCertificate writes a certificate for 127.0.0.1 and returns the paths.
func writeCertificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "choked"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	b, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}), 0o600))
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return cert, key
}

func TestChangedCertificateIsReloaded(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, 1)
	token, file := newToken(t, "*")
	p := startAlone(t, "-tokens", file, "-tls-cert", cert, "-tls-key", key)
	url := "https://" + p.addr
	require.Eventually(t, func() bool { // 4 until the node leads
		status, _, errs := runCommand(t, nil, "status", "-url", url, "-token", token, "-ca", cert)
		require.Contains(t, []int{0, 4}, status, errs)
		return status == 0
	}, 10*time.Second, 10*time.Millisecond)
	status, _, errs := runCommand(t, nil, "status", "-url", url, "-token", token)
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, "certificate")

	b, err := os.ReadFile(cert)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	store, err := httpstore.Open(httpstore.Config{URL: url, Token: token, TLS: &tls.Config{RootCAs: pool}})
	require.NoError(t, err)
	defer store.Close()
	l, err := store.Lease(t.Context(), choked.Ask{Key: "k", Limits: choked.MustLimits("requests 5/s"), Want: choked.Cost{Requests: 1}})
	require.NoError(t, err)
	assert.True(t, l.OK)

	serial := func() int64 {
		conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			return 0
		}
		defer conn.Close()
		assert.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol)
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	require.EqualValues(t, 1, serial())
	require.NoError(t, os.WriteFile(cert, []byte("half of it"), 0o600))
	require.Eventually(t, func() bool {
		assert.EqualValues(t, 1, serial(), "the previous certificate stays valid")
		return strings.Contains(p.log(), "failed to reload the certificate")
	}, 5*time.Second, 50*time.Millisecond)
	writeCertificate(t, dir, 2)
	require.Eventually(t, func() bool { return serial() == 2 }, 5*time.Second, 50*time.Millisecond)
}

func TestPrecedenceOfFlagsEnvironmentAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "choked.conf")
	require.NoError(t, os.WriteFile(file, []byte("# ours\n\nlisten = by-file:1\nvoters=5\njoin = a:1, b:2\ntls-cert = file.pem\nsecret = of = the file\n"), 0o600))
	env := map[string]string{"CHOKED_CONFIG": file, "CHOKED_VOTERS": "1", "CHOKED_TLS_CERT": "env.pem", "CHOKED_DRAIN": "3s"}
	var out bytes.Buffer
	f := newFlags("choked serve", func(name string) string { return env[name] }, &out, &out)
	var o options
	serveFlags(f, &o)
	require.NoError(t, f.parse([]string{"-tls-cert", "flag.pem"}, 0, 0, ""))
	assert.Equal(t, "flag.pem", o.cert, "the command line comes first")
	assert.Equal(t, 1, o.node.Voters, "then the environment")
	assert.Equal(t, 3*time.Second, o.drain)
	assert.Equal(t, "by-file:1", o.listen, "then the file")
	assert.Equal(t, []string{"a:1", "b:2"}, o.node.Join)
	assert.Equal(t, "of = the file", o.node.Secret)
	assert.Equal(t, 10*time.Second, o.stop, "then the default")
}

// A secret of a higher precedence overrides one of a lower precedence, whether it is
// given as it is or by its file. In one place only one of them can stand.
func TestPrecedenceOfSecretAndItsFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	a, b := write("a", "from file a\n"), write("b", "from file b\n")
	conf, confFile, confBoth := write("1.conf", "secret = from config\n"), write("2.conf", "secret-file = "+b+"\n"), write("3.conf", "secret = x\nsecret-file = "+b+"\n")
	for _, tt := range []struct {
		args []string
		env  map[string]string
		want string // empty: an error
	}{
		{nil, map[string]string{"CHOKED_SECRET": "from env", "CHOKED_CONFIG": confFile}, "from env"},
		{nil, map[string]string{"CHOKED_SECRET_FILE": a, "CHOKED_CONFIG": conf}, "from file a"},
		{nil, map[string]string{"CHOKED_SECRET_FILE": a, "CHOKED_CONFIG": confFile}, "from file a"},
		{[]string{"-secret-file", a}, map[string]string{"CHOKED_SECRET": "from env"}, "from file a"},
		{[]string{"-secret", "from line"}, map[string]string{"CHOKED_SECRET_FILE": a, "CHOKED_CONFIG": confBoth}, "from line"},
		{nil, map[string]string{"CHOKED_CONFIG": confFile}, "from file b"},
		{[]string{"-secret", "x", "-secret-file", a}, nil, ""},
		{nil, map[string]string{"CHOKED_SECRET": "x", "CHOKED_SECRET_FILE": a}, ""},
		{nil, map[string]string{"CHOKED_CONFIG": confBoth}, ""},
	} {
		f := newFlags("choked serve", func(name string) string { return tt.env[name] }, io.Discard, io.Discard)
		var o options
		serveFlags(f, &o)
		require.NoError(t, f.parse(tt.args, 0, 0, ""))
		err := o.check()
		if tt.want == "" {
			assert.ErrorContains(t, err, "want one of them", "%v %v", tt.args, tt.env)
			continue
		}
		assert.NoError(t, err, "%v %v", tt.args, tt.env)
		assert.Equal(t, tt.want, o.node.Secret, "%v %v", tt.args, tt.env)
	}
}

// Repeated flags append within one source: the command line, the environment or the
// file. A secret is one value, which may contain commas.
func TestRepeatedFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "choked.conf")
	require.NoError(t, os.WriteFile(file, []byte("join = a:1\njoin = b:2, c:3\nprevious-secret = x,y\nprevious-secret = z\n"), 0o600))
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		join []string
		old  []string
	}{
		"command line":     {[]string{"-join", "d:4", "-previous-secret", "one, two", "-join", "e:5,f:6", "-previous-secret", "three"}, nil, []string{"d:4", "e:5", "f:6"}, []string{"one, two", "three"}},
		"file":             {[]string{"-config", file}, nil, []string{"a:1", "b:2", "c:3"}, []string{"x,y", "z"}},
		"environment":      {nil, map[string]string{"CHOKED_JOIN": "d:4,e:5", "CHOKED_PREVIOUS_SECRET": "x,y"}, []string{"d:4", "e:5"}, []string{"x,y"}},
		"one and the file": {[]string{"-config", file, "-join", "d:4"}, nil, []string{"d:4"}, []string{"x,y", "z"}},
	} {
		var o options
		f := newFlags("choked serve", func(name string) string { return c.env[name] }, io.Discard, io.Discard)
		serveFlags(f, &o)
		require.NoError(t, f.parse(c.args, 0, 0, ""), name)
		assert.Equal(t, c.join, o.node.Join, name)
		assert.Equal(t, c.old, o.node.PreviousSecrets, name)
	}
}

func TestUsageErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "")
		require.NoError(t, err)
		defer f.Close()
		f.WriteString(text)
		return f.Name()
	}
	_, tokens := newToken(t, "a")
	for _, c := range []struct {
		args []string
		env  map[string]string
		why  string
	}{
		{nil, nil, "Usage: choked <command>"},
		{[]string{"sreve"}, nil, `command "sreve": want serve, status, acquire or token`},
		{[]string{"serve", "-listn", "x"}, nil, "-listn"},
		{[]string{"serve", "now"}, nil, `argument "now"`},
		{[]string{"serve", "-listen", "0.0.0.0:7980"}, nil, "without -tokens"},
		{[]string{"serve", "-listen", ":7980"}, nil, "without -tokens"},
		{[]string{"serve", "-listen", "7980"}, nil, "want host:port"},
		{[]string{"serve", "-tls-cert", "x"}, nil, "want both or none"},
		{[]string{"serve", "-conns-per-source", "0"}, nil, "want 1 or more"},
		{[]string{"serve", "-stop", "-1s"}, nil, "want 0 or more"},
		{[]string{"serve", "-secret", "x", "-secret-file", tokens}, nil, "want one of them"},
		{[]string{"serve", "-secret-file", file("\n")}, nil, "file is empty"},
		{[]string{"serve"}, map[string]string{"CHOKED_VOTERS": "many"}, "CHOKED_VOTERS"},
		{[]string{"serve", "-config", file("listen")}, nil, `line 1: want "name = value"`},
		{[]string{"serve", "-config", file("\nlistn = x")}, nil, `line 2: unknown flag "listn"`},
		{[]string{"serve", "-config", file("voters = many")}, nil, "line 1: voters"},
		{[]string{"serve", "-config", file("voters = 1\nvoters = 3")}, nil, "line 2: voters is set twice"},
		{[]string{"serve", "-config", file("config = x")}, nil, "unknown flag"},
		{[]string{"token"}, nil, "want namespace"},
		{[]string{"token", "Team A"}, nil, "namespace \"Team A\" holds a space"},
		{[]string{"token", "a asks=1"}, nil, "namespace \"a asks=1\" holds a space"},
		{[]string{"token", "-caps", "asks=x", "a"}, nil, "asks=N"},
		{[]string{"status", "x"}, nil, "want flags only"},
		{[]string{"status", "-ca", tokens}, nil, "no certificates in this file"},
	} {
		status, _, errs := runCommand(t, c.env, c.args...)
		assert.Equal(t, 2, status, "%v: %s", c.args, errs)
		assert.Contains(t, errs, c.why, c.args)
	}
	for _, c := range []struct {
		args []string
		why  string
	}{
		{[]string{"serve", "-config", "/nowhere"}, "no such file"},
		{[]string{"serve", "-tokens", "/nowhere"}, "no such file"},
		{[]string{"serve", "-tls-cert", tokens, "-tls-key", tokens}, "certificate"},
		{[]string{"serve", "-listen", "192.0.2.1:1", "-tokens", tokens}, "listen"},
		{[]string{"serve", "-listen", "127.0.0.1:0", "-bind", "127.0.0.1:0", "-voters", "2"}, "2 voters"},
		{[]string{"status", "-url", "http://127.0.0.1:1"}, "refused"},
		{[]string{"token", "-file", "/nowhere/tokens", "a"}, "no such file"},
	} {
		status, _, errs := runCommand(t, nil, c.args...)
		assert.Equal(t, 1, status, "%v: %s", c.args, errs)
		assert.Contains(t, errs, c.why, c.args)
	}
	for _, command := range []string{"serve", "status", "token"} {
		status, out, _ := runCommand(t, nil, command, "-h")
		assert.Zero(t, status)
		assert.Contains(t, out, "Usage: choked "+command)
		assert.Contains(t, out, "a line that begins with # is a comment")
	}
}

func TestErrorsHideSecrets(t *testing.T) {
	for _, c := range [][]string{
		{"serve", "-secret", "SECRET", "-listen", "7980"},
		{"serve", "-secret", "SECRET", "-listen", "127.0.0.1:0", "-bind", "nowhere"},
		{"status", "-token", "SECRET", "-url", "http://127.0.0.1:1"},
		{"status", "-token", "SECRET", "-url", "::"},
	} {
		_, out, errs := runCommand(t, nil, c...)
		assert.NotContains(t, out+errs, "SECRET", c)
	}
}

func TestStatusQuotesHostileNames(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, show(&out, httpapi.Status{Missing: "\x1b[2J", Cluster: httpapi.Cluster{
		Degraded: "\x1b[2J", Hidden: "\x1b[2J", Members: []httpapi.Member{{Name: "a\nb"}}, Gone: []httpapi.Gone{{ID: "1", Name: "c\nd", Addr: "\x1b[2J"}, {ID: "e\x1bf"}},
	}, Keys: []httpapi.KeyInfo{
		{Key: httpapi.KeyOf("\x1b[2J"), Limits: "requests 5/s"}, {Key: httpapi.KeyOf("\xff"), Limits: "tokens 5/s"}}}))
	assert.NotContains(t, out.String(), "\x1b")
	assert.Contains(t, out.String(), `"\xff"`)
	assert.Contains(t, out.String(), `"a\nb"`)
	assert.Contains(t, out.String(), `"c\nd"`)
}

func TestStatusInWords(t *testing.T) {
	members := []httpapi.Member{
		{ID: "0123456789", Name: "vm", Addr: "10.0.0.1:7946", Leader: true, Voter: true, Self: true},
		{ID: "abcdefghij", Name: "vm", Addr: "10.0.0.2:7946", Voter: true},
		{ID: "9876543210", Name: "other", Addr: "10.0.0.3:7946", Sick: true},
	}
	gone := []httpapi.Gone{{ID: "5555555555", Name: "db", Addr: "10.0.0.4:7946", For: 2 * time.Minute}, {ID: "9876543210", Name: "other", Sick: true}, {ID: "7777777777"}, {ID: "bbbbbbbbbb", Name: "vm", Addr: "10.0.0.5:7946", For: time.Minute}}
	for _, tt := range []struct {
		status httpapi.Status
		exit   error
		want   string
	}{
		{httpapi.Status{Ready: true}, nil, "ready\n"},
		{httpapi.Status{Ready: true, Cluster: httpapi.Cluster{Hidden: "nodes are hidden"}}, nil, "ready\n\nnodes are hidden\n"},
		{httpapi.Status{Missing: "no cluster"}, exitNotReady, "not ready: no cluster\n"},
		{httpapi.Status{Ready: true, Cluster: httpapi.Cluster{Degraded: "1 of 3"}}, exitDegraded, "degraded: 1 of 3\n"},
		{httpapi.Status{Missing: "no leader", Cluster: httpapi.Cluster{Degraded: "2 of 3", NoQuorum: true}}, exitNotReady, "no quorum: 2 of 3\nnot ready: no leader\n"},
		{httpapi.Status{Ready: true, Cluster: httpapi.Cluster{Members: members, Gone: gone}}, nil, `ready

NODE       ADDRESS        ROLE
vm/012345   10.0.0.1:7946  leader, this node
vm/abcdef   10.0.0.2:7946  voter
other       10.0.0.3:7946  client, disk failed
db          10.0.0.4:7946  voter, gone since 2m0s
7777777777  -              voter, gone since 0s
vm/bbbbbb   10.0.0.5:7946  voter, gone since 1m0s
`},
	} {
		var out bytes.Buffer
		require.NoError(t, show(&out, tt.status))
		assert.Equal(t, strings.Replace(tt.want, "NODE       ", "NODE        ", 1)+"\nthis node knows of no keys in use\n", out.String())
		assert.Equal(t, tt.exit, exitOf(tt.status))
	}
}

// Of three nodes one is killed, then another: status, its exit status and /readyz say
// so.
func TestStatusOfADegradedService(t *testing.T) {
	free, err := ports.Free(6) // the system might give -listen a port of addrs in place of 0
	require.NoError(t, err)
	addrs, listen := free[:3], free[3:]
	var nodes []*process
	for i, addr := range addrs {
		nodes = append(nodes, start(t, nil, "-listen", listen[i], "-bind", addr, "-join", strings.Join(addrs, ","), "-name", fmt.Sprint("n", i)))
	}
	at := func() (exit int, out string) {
		exit, out, _ = runCommand(t, nil, "status", "-url", "http://"+nodes[0].addr)
		return exit, out
	}
	ready := func() (int, string) {
		response, err := http.Get("http://" + nodes[0].addr + "/readyz")
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(body)
	}
	eventually := func(exit int, parts ...string) string {
		t.Helper()
		var out string
		require.Eventually(t, func() bool {
			var got int
			got, out = at()
			return got == exit && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(out, p) })
		}, 30*time.Second, 100*time.Millisecond, "%v", parts)
		return out
	}
	eventually(0, "ready", "n1", "n2", "leader")
	require.Eventually(t, func() bool { // all of them vote
		_, out, _ := runCommand(t, nil, "status", "-url", "http://"+nodes[0].addr, "-json")
		return strings.Contains(out, `"voters":3`)
	}, 30*time.Second, 100*time.Millisecond)
	code, body := ready()
	assert.Equal(t, 200, code)
	assert.JSONEq(t, "{}", body)

	require.NoError(t, nodes[1].cmd.Process.Kill())
	out := eventually(3, "degraded: 1 of 3 voters gone since ", "; one more and nothing is decided")
	assert.Regexp(t, `n1 +`+addrs[1]+` +voter, gone since \d+s`, out)
	code, body = ready()
	assert.Equal(t, 200, code)
	assert.Contains(t, body, `"degraded":"1 of 3 voters gone since `)

	require.NoError(t, nodes[2].cmd.Process.Kill())
	out = eventually(4, "no quorum: 2 of 3 voters gone since ", "before one of them runs again with its Dir", "not ready: no leader")
	assert.Regexp(t, `n2 +`+addrs[2]+` +voter, gone since \d+s`, out)
	code, _ = ready()
	assert.Equal(t, 503, code)
}

// A node whose directory was copied fails /healthz, and the original does not.
func TestCopyOfANodeIsNotHealthy(t *testing.T) {
	free, err := ports.Free(4) // the system might give -listen a port of addrs in place of 0
	require.NoError(t, err)
	addrs, listen := free[:2], free[2:]
	dirs := []string{t.TempDir(), t.TempDir()}
	health := func(p *process) int {
		response, err := http.Get("http://" + p.addr + "/healthz")
		require.NoError(t, err)
		response.Body.Close()
		return response.StatusCode
	}
	serve := func(i int) *process {
		return start(t, nil, "-listen", listen[i], "-bind", addrs[i], "-join", addrs[0], "-dir", dirs[i], "-name", fmt.Sprint("n", i))
	}
	one := serve(0)
	one.wait()
	require.NoError(t, one.cmd.Process.Kill())
	<-one.done
	require.NoError(t, os.CopyFS(dirs[1], os.DirFS(dirs[0])))
	one = serve(0)
	one.wait()
	time.Sleep(2 * time.Second) // then the other one is the later one
	two := serve(1)
	require.Eventually(t, func() bool { return health(two) == 503 }, 10*time.Second, 50*time.Millisecond)
	exit, out, _ := runCommand(t, nil, "status", "-url", "http://"+two.addr)
	assert.Equal(t, 4, exit)
	assert.Contains(t, out, "not ready: ")
	assert.Contains(t, out, "stepped out")
	assert.Contains(t, out, addrs[0])
	assert.Equal(t, 200, health(one))
	exit, _, _ = runCommand(t, nil, "status", "-url", "http://"+one.addr)
	assert.Zero(t, exit)
}

// wait returns when the service is ready.
func (p *process) wait() {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		response, err := http.Get("http://" + p.addr + "/readyz")
		if err != nil {
			return false
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return response.StatusCode == 200
	}, 20*time.Second, 20*time.Millisecond, "%s is not ready", p.addr)
}

func TestDrainFailsReadyzBeforeStopping(t *testing.T) {
	p := startAlone(t, "-drain", "1s")
	p.wait()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + p.addr + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 503
	}, time.Second, 5*time.Millisecond)
	response, err := http.Get("http://" + p.addr + "/v2/acquire?key=k&request_limit=5/s")
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, 200, response.StatusCode, "requests are served while /readyz fails")
	<-p.done
	assert.Zero(t, p.cmd.ProcessState.ExitCode())
}

// skip skips a test that lacks a requirement, or fails it if CHOKED_REQUIRE_ALL is set.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CHOKED_REQUIRE_ALL") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
