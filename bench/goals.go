package main

import (
	"errors"
	"fmt"
)

const goalsTitle = "Goals"

// goal is a target for one figure.
type goal struct {
	what, target, measured string
	reached                bool
	reason                 string // why it was missed, if the run shows it
}

type goals []goal

func (g *goals) add(what, target, measured string, reached bool, reason string) {
	*g = append(*g, goal{what, target, measured, reached, reason})
}

func (g goals) table() table {
	t := table{head: []string{"figure", "goal", "measured", "", "reason"}}
	for _, x := range g {
		verdict := "reached"
		if !x.reached {
			verdict = "NOT REACHED"
		} else {
			x.reason = ""
		}
		t.row(x.what, x.target, x.measured, verdict, x.reason)
	}
	return t
}

// err returns an error that names the goals which were missed without a reason.
func (g goals) err() (err error) {
	for _, x := range g {
		if !x.reached && x.reason == "" {
			err = errors.Join(err, fmt.Errorf("not reached: %s: %s, want %s", x.what, x.measured, x.target))
		}
	}
	return err
}
