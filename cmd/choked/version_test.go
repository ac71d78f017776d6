package main

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked/internal/testkit/oldservice"
)

// The answers in testdata/v1 were given by a service of version 1 of the API to
// requests of version 2.
func TestCommandsNameAServiceOfVersion1(t *testing.T) {
	service := httptest.NewServer(oldservice.Handler(t))
	defer service.Close()
	for _, args := range [][]string{{"status"}, {"acquire", "-key", "k", "-limits", "requests 5/s"}} {
		status, out, errs := runCommand(t, nil, append(args, "-url", service.URL)...)
		assert.Equal(t, 1, status, args)
		assert.Empty(t, out)
		assert.Equal(t, "choked "+args[0]+": 404 Not Found: the service does not have /v2 of the API: use choked of one version for client and service: "+
			`path "/v2/`+args[0]+`": no such route, see /openapi.json`+"\n", errs)
	}
}
