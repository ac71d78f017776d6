package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/choked/choked/internal/httpapi"
)

// client makes requests of a service for a command.
type client struct{ url, token, ca string }

// newClient declares the flags of a client.
func newClient(f *flags) *client {
	c := new(client)
	f.StringVar(&c.url, "url", "http://127.0.0.1:7980", "`URL` of the service")
	f.StringVar(&c.token, "token", "", "`token` of the client; prefer CHOKED_TOKEN, since other users can see command lines")
	f.StringVar(&c.ca, "ca", "", "`file` with certificates to trust, in PEM (default the system's)")
	return c
}

// do makes a request of the API and returns the status and the body of the answer.
func (c *client) do(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return 0, nil, fmt.Errorf("-ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return 0, nil, wrong("-ca %s: no certificates in this file", c.ca)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.url, "/")+httpapi.Version+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, wrong("-url %.80q: want a URL such as https://choked.internal:7980", c.url)
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// failure returns the error that an answer tells.
func failure(status int, body []byte) error {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	var f httpapi.Failure
	if json.Unmarshal(body, &f) == nil && f.Error.Message != "" {
		return fmt.Errorf("%s: %s", text, f.Error.Advice())
	}
	return fmt.Errorf("%s, without an error of choked: is this a choked service?", text)
}
