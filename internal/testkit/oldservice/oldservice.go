// Package oldservice plays back the answers of a service of version 1 of the HTTP API.
package oldservice

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"path"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Handler answers a request as a service of version 1 did: with the answer in testdata/v1
// of the package under test that is named after the last part of the path.
func Handler(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open("testdata/v1/answer-" + path.Base(r.URL.Path) + ".http")
		if !assert.NoError(t, err) {
			return
		}
		defer f.Close()
		answer, err := http.ReadResponse(bufio.NewReader(f), r)
		if !assert.NoError(t, err) {
			return
		}
		w.WriteHeader(answer.StatusCode)
		_, err = io.Copy(w, answer.Body)
		assert.NoError(t, err)
	})
}
