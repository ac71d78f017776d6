package choked_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Imports point one way, towards the bucket. This is what the packages of the
// library may import of it; programs may import anything.
func TestImportsPointDown(t *testing.T) {
	const module = "github.com/choked/choked"
	may := map[string]string{
		"":                   "bucket internal/local internal/pool",
		"internal/local":     "bucket internal/boottime internal/ledger internal/waitqueue",
		"internal/pool":      "bucket internal/boottime",
		"bucket":             "",
		"cluster":            "bucket fsm internal/boottime internal/ledger internal/waitqueue cluster/internal/fold cluster/internal/wire",
		"estimator":          "estimator/internal/quick",
		"estimator/tiktoken": "estimator estimator/internal/bpe",
		"estimator/voyage":   "estimator estimator/internal/bpe",
		"fsm":                "internal/ledger",
		"internal/ledger":    "bucket",
		"internal/boottime":  "",
		"internal/httpapi":   "bucket",
		"internal/waitqueue": "bucket internal/ledger",
		"httpstore":          "bucket internal/boottime internal/httpapi",
		"redisstore":         "bucket internal/boottime",
		"storetest":          "bucket",
	}
	within := func(path string) (string, bool) {
		rest, ok := strings.CutPrefix(path, module)
		return strings.TrimPrefix(rest, "/"), ok
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(line, ":")
		name, _ := within(path)
		allowed, listed := may[name]
		for imported := range strings.FieldsSeq(imports) {
			if other, ours := within(imported); ours && listed {
				assert.Contains(t, strings.Fields(allowed), other, "imported by %q", name)
			}
		}
		delete(may, name)
	}
	assert.Empty(t, may, "packages that are no more")
}
