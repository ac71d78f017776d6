package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// statusWithin is how long the service may take.
const statusWithin = 10 * time.Second

// status asks a service how it stands, and prints that.
func status(ctx context.Context, f *flags, args []string) error {
	var url, token, ca string
	var asJSON bool
	f.StringVar(&url, "url", "http://127.0.0.1:7980", "`URL` of the service")
	f.StringVar(&token, "token", "", "that admits; better by CHOKED_TOKEN, for others see a command line")
	f.StringVar(&ca, "ca", "", "`file` of certificates to trust (default those of the system)")
	f.BoolVar(&asJSON, "json", false, "print it as JSON")
	if err := f.parse(args, 0, 0, ""); err != nil {
		return err
	}
	body, err := askStatus(ctx, strings.TrimSuffix(url, "/"), token, ca)
	if err != nil {
		return err
	}
	if asJSON {
		_, err := f.stdout.Write(body)
		return err
	}
	var st httpapi.Status
	if err := json.Unmarshal(body, &st); err != nil {
		return fmt.Errorf("%s answers what is no status: %w", url, err)
	}
	return show(f.stdout, st)
}

func askStatus(ctx context.Context, url, token, ca string) ([]byte, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("-ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, wrong("-ca %s: it holds no certificates", ca)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", url+"/v1/status", nil)
	if err != nil {
		return nil, wrong("-url %.80q: want one such as https://choked.internal:7980", url)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		var failure httpapi.Failure
		if json.Unmarshal(body, &failure) == nil && failure.Error.Message != "" {
			return nil, fmt.Errorf("%s: %s", response.Status, failure.Error.Message)
		}
		return nil, errors.New(response.Status)
	}
	return body, nil
}

// show prints st for people. Names are quoted where they hold more than letters.
func show(out io.Writer, st httpapi.Status) error {
	switch {
	case st.Ready:
		fmt.Fprintln(out, "ready")
	default:
		fmt.Fprintln(out, "not ready:", quoted(st.Missing))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(st.Members) > 0 {
		fmt.Fprintln(w, "\nNODE\tADDRESS\tROLE")
		for _, m := range st.Members {
			role := "client"
			switch {
			case m.Leader || m.Name == st.Leader:
				role = "leader"
			case m.Voter:
				role = "voter"
			}
			if m.Sick {
				role += ", its disk has failed"
			}
			if m.Self {
				role += ", answers here"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", quoted(m.Name), quoted(m.Addr), role)
		}
	}
	if len(st.Keys) == 0 {
		fmt.Fprintln(w, "\nno keys in use, as far as this node knows")
	} else {
		fmt.Fprintln(w, "\nKEY\tLIMITS\tLEVEL\tLEASED\tLEASES\tFULL IN")
	}
	for _, k := range st.Keys {
		key, err := k.Key.Value()
		if err != nil {
			return err
		}
		limits, _ := parseLimits(k.Limits)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%v\n", quoted(key), k.Limits, ofLimited(limits, k.Level.Value()), ofLimited(limits, k.Leased), k.Leases, k.Full.Round(time.Millisecond))
	}
	return w.Flush()
}

func parseLimits(s string) (l bucket.Limits, err error) {
	err = l.UnmarshalText([]byte(s))
	return l, err
}

// ofLimited shows the units that are limited.
func ofLimited(l bucket.Limits, c bucket.Cost) string {
	var parts []string
	for u := range bucket.Tokens + 1 {
		if len(l.Of(u)) > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", c.Of(u), u))
		}
	}
	if len(parts) == 0 {
		return c.String()
	}
	return strings.Join(parts, ", ")
}

// quoted is s, in quotes if it holds what a terminal might obey.
func quoted(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` {
		return q
	}
	return s
}
