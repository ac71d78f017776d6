package main

import (
	"errors"
	"fmt"
)

const reachTitle = "What was to be reached"

// goal is one figure that was to be reached.
type goal struct {
	what, reach, measured string
	reached               bool
	because               string // why not, if the run has shown it
}

type goals []goal

func (g *goals) add(what, reach, measured string, reached bool, because string) {
	*g = append(*g, goal{what, reach, measured, reached, because})
}

func (g goals) table() table {
	t := table{head: []string{"what", "reach", "measured", "", "why not"}}
	for _, x := range g {
		verdict := "reached"
		if !x.reached {
			verdict = "NOT REACHED"
		} else {
			x.because = ""
		}
		t.row(x.what, x.reach, x.measured, verdict, x.because)
	}
	return t
}

// err is what was missed for no reason that the run has shown.
func (g goals) err() (err error) {
	for _, x := range g {
		if !x.reached && x.because == "" {
			err = errors.Join(err, fmt.Errorf("not reached: %s: %s, want %s", x.what, x.measured, x.reach))
		}
	}
	return err
}
