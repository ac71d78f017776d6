package redisserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asOwner is set in the environment of a process that only starts a server.
const asOwner = "CHOKED_TEST_OWNS_A_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asOwner) != "" {
		s, err := Start()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(s.Addr)
		io.Copy(io.Discard, os.Stdin)
		s.Stop()
		return
	}
	os.Exit(m.Run())
}

// A server ends when the process that started it is killed.
func TestServerEndsWithItsOwner(t *testing.T) {
	if _, err := find(); err != nil && os.Getenv("CHOKED_REQUIRE_ALL") == "" {
		t.Skip(err)
	}
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), asOwner+"=1", "TMPDIR="+t.TempDir())
	in, err := owner.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr := strings.TrimSpace(line)
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err, line)
	c.Close()
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	}, 20*time.Second, 5*time.Millisecond)
}
