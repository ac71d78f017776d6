package cluster

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNextStepOfLeaving(t *testing.T) {
	for _, tt := range []struct {
		why  string
		view leaveView
		want leaveStep
	}{
		{"it was removed, or never was a voter", leaveView{listed: false, able: 3, successors: 2}, hasLeft},
		{"also if it still believes that it leads", leaveView{listed: false, leads: true, able: 3, successors: 2}, hasLeft},
		{"no other member could vote", leaveView{listed: true, leads: true}, hasLeft},
		{"nor remove it", leaveView{listed: true}, hasLeft},
		{"another member leads", leaveView{listed: true, able: 3, successors: 2}, askToBeRemoved},
		{"another member is to lead soon", leaveView{listed: true, able: 1}, askToBeRemoved},
		{"it leads and is the only voter", leaveView{listed: true, leads: true, able: 2}, promoteSuccessor},
		{"the successor has its vote: continue where the last try stopped", leaveView{listed: true, leads: true, able: 2, successors: 1}, transferLeadership},
		{"the successor has taken over: continue there", leaveView{listed: true, leads: false, able: 2, successors: 1}, askToBeRemoved},
		{"leadership came back: transfer it again", leaveView{listed: true, leads: true, able: 2, successors: 2}, transferLeadership},
	} {
		assert.Equal(t, tt.want, tt.view.next(), "%s: %+v", tt.why, tt.view)
	}
}
