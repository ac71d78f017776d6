package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

func frame(kind byte, body []byte) []byte {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	writeFrame(w, kind, body) //nolint:errcheck // in memory
	w.Flush()
	return b.Bytes()
}

// Whatever comes, a frame is read as it was sent, or is an error.
func FuzzFrames(f *testing.F) {
	ask := oneRequest("k", 1)
	op := bucket.AppendOp([]byte{7}, &ask)
	f.Add(append(frame(frameOps, op), frame(framePing, nil)...))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 'o'})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for at, buf := 0, []byte(nil); ; {
			kind, body, err := readFrame(r, &buf)
			if err != nil {
				return
			}
			again := frame(kind, body)
			require.Equal(t, b[at:at+len(again)], again)
			at += len(again)
			l := &link{pending: nil}
			for len(body) > 0 && kind == frameAnswers && err == nil {
				body, err = l.answer(body)
			}
			for len(body) > 0 && kind == frameOps && err == nil {
				if _, body, err = seq(body); err == nil {
					_, body, err = bucket.ParseOp(body)
				}
			}
		}
	})
}

func TestAFramesLengthIsNotBelieved(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		var buf []byte
		_, _, err := readFrame(bufio.NewReader(bytes.NewReader([]byte{0x80, 0, 0, 0, frameOps})), &buf)
		require.ErrorContains(t, err, "frame of 2147483648 bytes: want 1 to 1048576")
	}
	runtime.ReadMemStats(&after)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20), "bytes, for 2 GiB that are announced")
}

// What a member says of itself is shown to people and compared: it is of the
// form that it should be, or nothing of it counts.
func FuzzMeta(f *testing.F) {
	for _, m := range []meta{{Name: "worker-1", Cluster: "c", Leader: true}, {Name: "\x1b[31m"}, {Name: "<script>"}, {}} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"n":"a","c":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := readMeta(b)
		if m.Name == "?" {
			require.Equal(t, meta{Name: "?"}, m)
			return
		}
		require.Regexp(t, nameForm, m.Name)
		require.LessOrEqual(t, len(m.Cluster), 64)
	})
}
