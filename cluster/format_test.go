package cluster

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testdata/dir-v1 was written by the commit before format 2.
func TestADirOfAnotherFormatIsRefused(t *testing.T) {
	for _, c := range []struct{ name, identity, want string }{
		{"of before", "", "identity.json has format 1, and this release reads 2: run the release that wrote the directory, or empty it"},
		{"of a later release", `{"node":"565ba2c69dc71896","cluster":"a8d1ac64ea56f42d","format":3,"sum":"73df8249"}`, "identity.json has format 3, and this release reads 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/dir-v1")))
			if c.identity != "" {
				require.NoError(t, os.WriteFile(dir+"/"+identityFile, []byte(c.identity), 0o600))
			}
			before, err := os.ReadFile(dir + "/" + logFile)
			require.NoError(t, err)
			_, err = Start(Config{Bind: "127.0.0.1:0", Dir: dir})
			assert.ErrorContains(t, err, c.want)
			assert.ErrorContains(t, err, dir)
			after, err := os.ReadFile(dir + "/" + logFile)
			require.NoError(t, err)
			assert.Equal(t, before, after, "the log was changed")
		})
	}
}
