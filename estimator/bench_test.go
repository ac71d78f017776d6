package estimator_test

import (
	"testing"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/corpus"
)

func BenchmarkDefault(b *testing.B) {
	for _, text := range []corpus.Text{{Name: "en/2KB", Body: corpus.English(2 << 10)}, {Name: "en/1MB", Body: corpus.English(1 << 20)}} {
		e := estimator.Default()
		var input any = text.Body
		b.Run(text.Name, func(b *testing.B) {
			b.SetBytes(int64(len(text.Body)))
			b.ReportAllocs()
			for b.Loop() {
				estimate(b, e, input)
			}
		})
	}
}

func BenchmarkExtract(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","messages":[{"role":"system","content":"be kind"},{"role":"user","content":[{"type":"text","text":"` +
		corpus.Generated(1 << 10)[4].Body + `"}]}],"max_tokens":100}`)
	e := estimator.Default()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		estimate(b, e, body)
	}
}

func BenchmarkCalibrated(b *testing.B) {
	e := estimator.Calibrate(fixed{})
	var input any = int64(1000)
	b.ReportAllocs()
	for b.Loop() {
		e.Observe(estimateCost(b, e, input), bucket.Cost{Tokens: 1100})
	}
}
