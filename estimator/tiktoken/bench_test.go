package tiktoken_test

import (
	"fmt"
	"testing"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/tiktoken"
)

// BenchmarkCount counts whole texts; BenchmarkEstimate samples those above 32 KB.
func BenchmarkCount(b *testing.B) {
	c, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{100, 2 << 10, 50 << 10, 400 << 10} {
		for _, name := range []string{"en", "zh"} {
			count(b, fmt.Sprintf("%s/%dB", name, size), c, corpus.Shuffled(name, size))
		}
	}
	for _, text := range corpus.Go(100<<10, 1) {
		count(b, "go/100KB", c, text.Body)
	}
	for _, text := range corpus.Generated(50 << 10) {
		count(b, text.Name+"/50KB", c, text.Body)
	}
}

func BenchmarkHostile100KB(b *testing.B) {
	c, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		b.Fatal(err)
	}
	for _, text := range corpus.Hostile(100 << 10) {
		count(b, text.Name, c, text.Body)
	}
}

func count(b *testing.B, name string, c estimator.Counter, text string) {
	b.Run(name, func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			c.Count(text)
		}
	})
}

func BenchmarkEstimate(b *testing.B) {
	e := tiktoken.OpenAI("gpt-4o")
	for _, size := range []int{2 << 10, 32 << 10, 1 << 20, 16 << 20} {
		var text any = corpus.English(size)
		b.Run(fmt.Sprintf("en/%dB", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				estimate(b, e, text)
			}
		})
	}
}
