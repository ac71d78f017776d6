// Package bench compares the estimators with other Go encoders in one run. It is a
// module of its own, so that choked does not depend on the other encoders:
//
//	cd estimator/bench && go test -bench .
package bench

import (
	"fmt"
	"sync"
	"testing"

	pkoukk "github.com/pkoukk/tiktoken-go"
	loader "github.com/pkoukk/tiktoken-go-loader"
	"github.com/tiktoken-go/tokenizer"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/tiktoken"
)

// encoder is one of three implementations that count by o200k.
type encoder struct {
	name  string
	count func(text string) int
}

var encoders = sync.OnceValues(func() ([]encoder, error) {
	ours, err := tiktoken.OpenAI("gpt-4o", estimator.Exact()).Counter()
	if err != nil {
		return nil, err
	}
	pkoukk.SetBpeLoader(loader.NewOfflineLoader())
	first, err := pkoukk.GetEncoding("o200k_base")
	if err != nil {
		return nil, err
	}
	second, err := tokenizer.Get(tokenizer.O200kBase)
	if err != nil {
		return nil, err
	}
	return []encoder{
		{"choked", ours.Count},
		{"pkoukk", func(text string) int { return len(first.EncodeOrdinary(text)) }},
		{"tokenizer", func(text string) int {
			n, err := second.Count(text)
			if err != nil {
				return -1
			}
			return n
		}},
	}, nil
})

func all(tb testing.TB) []encoder {
	tb.Helper()
	list, err := encoders()
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

func BenchmarkText(b *testing.B) {
	texts := []corpus.Text{
		{Name: "en/100B", Body: corpus.English(100)},
		{Name: "en/2KB", Body: corpus.English(2 << 10)},
		{Name: "en/50KB", Body: corpus.English(50 << 10)},
		{Name: "zh/50KB", Body: corpus.Shuffled("zh", 50<<10)},
		{Name: "json/50KB", Body: corpus.Generated(50 << 10)[0].Body},
	}
	for _, text := range corpus.Go(50<<10, 1) {
		texts = append(texts, corpus.Text{Name: "go/50KB", Body: text.Body})
	}
	for _, text := range texts {
		for _, e := range all(b) {
			run(b, text.Name+"/"+e.name, text.Body, e)
		}
	}
}

// BenchmarkHostile has texts of at most 5 KB: the time of pkoukk's encoder is
// quadratic in the length of a run.
func BenchmarkHostile(b *testing.B) {
	for _, size := range []int{1 << 10, 5 << 10} {
		for _, text := range corpus.Hostile(size) {
			for _, e := range all(b) {
				run(b, fmt.Sprintf("%s/%dKB/%s", text.Name, size>>10, e.name), text.Body, e)
			}
		}
	}
}

func run(b *testing.B, name, text string, e encoder) {
	b.Run(name, func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			if e.count(text) < 1 {
				b.Fatal("no tokens")
			}
		}
	})
}

// TestCountsAgree fails where choked and pkoukk differ, and logs where tokenizer
// does. The tests of package tiktoken compare choked with pkoukk token by token.
func TestCountsAgree(t *testing.T) {
	list := all(t)
	for _, text := range append(corpus.Prose(), corpus.Edges()...) {
		if text.Body == "" {
			continue
		}
		text.Body = string([]rune(text.Body))
		ours, first, second := list[0].count(text.Body), list[1].count(text.Body), list[2].count(text.Body)
		if ours != first {
			t.Errorf("%s: choked counts %d tokens, pkoukk %d", text.Name, ours, first)
		}
		if second != first {
			t.Logf("%s: tokenizer counts %d tokens, pkoukk %d", text.Name, second, first)
		}
	}
}
