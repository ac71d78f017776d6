package server

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/httpapi"
)

// The requests in testdata/v1 were made by clients of version 1 of the API: package
// httpstore, the Python example, curl, and choked status.
func TestRequestsOfVersion1AreRefused(t *testing.T) {
	files, err := filepath.Glob("testdata/v1/*.http")
	require.NoError(t, err)
	require.Len(t, files, 8)
	d := open(t, nil, hashToken("choked_EXAMPLE")+" a")
	for _, file := range files {
		f, err := os.Open(file)
		require.NoError(t, err)
		r, err := http.ReadRequest(bufio.NewReader(f))
		require.NoError(t, err, file)
		answer := d.do(r)
		require.NoError(t, f.Close())
		assert.Equal(t, 410, answer.Code, file)
		assert.Equal(t, httpapi.OtherVersion, answer.code(), file)
		assert.Equal(t, `path "`+r.URL.Path+`": this service has /v2 of the API only: use a client of the service's version, or /v2 as /openapi.json describes it`, answer.message(), file)
	}
}

func TestPathsOfOtherVersions(t *testing.T) {
	d := open(t, nil)
	for path, code := range map[string]string{
		"/v1/lease": httpapi.OtherVersion, "/v3/lease": httpapi.OtherVersion, "/v20/lease": httpapi.OtherVersion, "/v1/nothing": httpapi.OtherVersion,
		"/v2/nothing": httpapi.NotFound, "/v1": httpapi.NotFound, "/v/lease": httpapi.NotFound, "/vault/lease": httpapi.NotFound, "/x/v1/lease": httpapi.NotFound,
	} {
		answer := d.do(post(path, "{}"))
		assert.Equal(t, code, answer.code(), path)
		assert.Equal(t, (&httpapi.Error{Code: code}).Status(), answer.Code, path)
	}
	assert.Less(t, d.do(get("/v1/"+strings.Repeat("x", 5000))).Body.Len(), 500)
}
