package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// statusTimeout bounds the request for a status.
const statusTimeout = 10 * time.Second

// status prints the status of a service.
func status(ctx context.Context, f *flags, args []string) error {
	var asJSON bool
	c := newClient(f)
	f.BoolVar(&asJSON, "json", false, "print the status as JSON")
	if err := f.parse(args, 0, 0, ""); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	code, body, err := c.do(ctx, "GET", "/status", nil)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return failure(code, body)
	}
	var st httpapi.Status
	if err := json.Unmarshal(body, &st); err != nil {
		return fmt.Errorf("decode status of %s: %w", c.url, err)
	}
	if asJSON {
		_, err = f.stdout.Write(body)
	} else {
		err = show(f.stdout, st)
	}
	if err != nil {
		return err
	}
	return exitOf(st)
}

// The exit status of the command status says how the service is.
const (
	exitDegraded exitStatus = 3 // it decides, but voters are missing
	exitNotReady exitStatus = 4 // it does not decide, for want of a quorum or for another reason
)

// exitOf returns the exit status for st as an error, or nil if all is well.
func exitOf(st httpapi.Status) error {
	switch {
	case !st.Ready || st.NoQuorum:
		return exitNotReady
	case st.Degraded != "":
		return exitDegraded
	}
	return nil
}

// show prints st as tables. It quotes names that contain control characters.
func show(out io.Writer, st httpapi.Status) error {
	switch {
	case st.NoQuorum:
		fmt.Fprintln(out, "no quorum:", quoted(st.Degraded))
		if st.Missing != "" {
			fmt.Fprintln(out, "not ready:", quoted(st.Missing))
		}
	case !st.Ready:
		fmt.Fprintln(out, "not ready:", quoted(st.Missing))
	case st.Degraded != "":
		fmt.Fprintln(out, "degraded:", quoted(st.Degraded))
	default:
		fmt.Fprintln(out, "ready")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	showNodes(w, st.Cluster)
	if len(st.Keys) == 0 {
		fmt.Fprintln(w, "\nthis node knows of no keys in use")
	} else {
		fmt.Fprintln(w, "\nKEY\tLIMITS\tLEVEL\tLEASED\tLEASES\tFULL IN")
	}
	for _, k := range st.Keys {
		key, err := k.Key.Value()
		if err != nil {
			return err
		}
		limits, _ := bucket.ParseLimits(k.Limits)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%v\n", quoted(key), k.Limits, ofLimited(limits, bucket.Cost(k.Level)), ofLimited(limits, k.Leased), k.Leases, k.Full.Round(time.Millisecond))
	}
	return w.Flush()
}

// showNodes prints the nodes, and the voters that are missing, as a table.
func showNodes(w io.Writer, c httpapi.Cluster) {
	if c.Hidden != "" {
		fmt.Fprintln(w, "\n"+quoted(c.Hidden))
	}
	if len(c.Members)+len(c.Gone) == 0 {
		return
	}
	fmt.Fprintln(w, "\nNODE\tADDRESS\tROLE")
	gone := slices.DeleteFunc(slices.Clone(c.Gone), func(g httpapi.Gone) bool {
		return slices.ContainsFunc(c.Members, func(m httpapi.Member) bool { return m.ID == g.ID })
	})
	all := slices.Clone(c.Members)
	for _, g := range gone {
		all = append(all, httpapi.Member{ID: g.ID, Name: cmp.Or(g.Name, g.ID)})
	}
	names := labels(all)
	for i, m := range c.Members {
		role := "client"
		switch {
		case m.Leader:
			role = "leader"
		case m.Voter:
			role = "voter"
		}
		if m.Sick {
			role += ", disk failed"
		}
		if m.Self {
			role += ", this node"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", quoted(names[i]), quoted(m.Addr), role)
	}
	for i, g := range gone {
		fmt.Fprintf(w, "%s\t%s\tvoter, gone since %v\n", quoted(names[len(c.Members)+i]), quoted(cmp.Or(g.Addr, "-")), g.For.Round(time.Second))
	}
}

// ofLimited formats the units of c that l limits.
func ofLimited(l bucket.Limits, c bucket.Cost) string {
	var parts []string
	for u := range bucket.NumUnits {
		if len(l.Of(u)) > 0 {
			parts = append(parts, u.Amount(c.Of(u)))
		}
	}
	if len(parts) == 0 {
		return c.String()
	}
	return strings.Join(parts, ", ")
}

// quoted returns s, in quotes if it contains characters that could control a terminal.
func quoted(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` {
		return q
	}
	return s
}
