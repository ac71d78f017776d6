package cluster

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// A disk that fails while the cluster is founded keeps the node from ending, for
// Raft answers nobody who waits for the founding.
func TestADiskThatFailsAtTheFoundingDoesNotHang(t *testing.T) {
	if os.Getenv("CHOKED_TEST_HANGS") == "" { // what hangs would end the other tests, too
		test := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		test.Env = append(os.Environ(), "CHOKED_TEST_HANGS=1")
		assert.NoError(t, test.Run())
		return
	}
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		cfg := c.config(1)
		cfg.Dir = dir
		n := c.start(cfg)
		assert.NoError(t, n.disk.bolt.Close())
		c.start(c.config(2)) // now it founds
		time.Sleep(10 * time.Second)
		assert.Error(t, n.Health())
		ended := make(chan struct{})
		delete(c.nodes, n.port.Addr())
		go func() {
			n.Close()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("Close hangs")
		}
	})
}
