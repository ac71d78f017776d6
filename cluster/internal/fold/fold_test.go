package fold

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRepeatsAreReportedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e Events
		var reports []string
		for range 721 { // three minutes
			if n, report := e.Report("a voter is dead"); report {
				reports = append(reports, fmt.Sprint("a ", n))
			}
			if n, report := e.Report("another one"); report {
				reports = append(reports, fmt.Sprint("b ", n))
			}
			time.Sleep(250 * time.Millisecond)
		}
		assert.Equal(t, []string{"a 0", "b 0", "a 239", "b 239", "a 239", "b 239", "a 239", "b 239"}, reports)
	})
}

func TestEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e Events
		reported := func() (n int) {
			for i := range 10 * maxKeys {
				if _, report := e.Report(fmt.Sprint(time.Now().UnixNano(), " ", i)); report {
					n++
				}
			}
			return n
		}
		assert.Equal(t, maxKeys+1, reported(), "those that do not fit share one report")
		assert.Len(t, e.seen, maxKeys+1)
		time.Sleep(every)
		assert.Equal(t, maxKeys+1, reported(), "old events make room for new ones")
		assert.Len(t, e.seen, maxKeys+1)
	})
}
