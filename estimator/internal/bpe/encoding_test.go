package bpe

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// ranked returns a vocabulary of all bytes and then the given tokens.
func ranked(t testing.TB, tokens ...string) *Vocab {
	t.Helper()
	var all []string
	for b := range 256 {
		all = append(all, string([]byte{byte(b)}))
	}
	v, err := newVocab(append(all, tokens...))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newVocab(tokens []string) (*Vocab, error) {
	offsets := []uint32{0}
	for _, s := range tokens {
		offsets = append(offsets, offsets[len(offsets)-1]+uint32(len(s)))
	}
	return NewVocab(strings.Join(tokens, ""), offsets)
}

// obvious merges a piece by the definition: it finds the lowest rank, the leftmost of
// equals, merges these two, and starts again.
func obvious(e *Encoding, piece string) []int32 {
	if id := e.vocab.lookup(piece); e.whole && id != none {
		return []int32{id}
	}
	var parts []string
	for i := range len(piece) {
		parts = append(parts, piece[i:i+1])
	}
	for {
		lowest, at := int32(noRank), -1
		for i := range len(parts) - 1 {
			r := e.vocab.lookup(parts[i] + parts[i+1])
			if e.pairs != nil {
				r = e.pairs.rank(e.vocab.lookup(parts[i]), e.vocab.lookup(parts[i+1]))
			}
			if r != none && r < lowest {
				lowest, at = r, i
			}
		}
		if at < 0 {
			break
		}
		parts = slices.Replace(parts, at, at+2, parts[at]+parts[at+1])
	}
	var ids []int32
	for _, p := range parts {
		ids = append(ids, e.vocab.lookup(p))
	}
	return ids
}

func TestMergeEqualsDefinition(t *testing.T) {
	// The tokens overlap in every way, and the lengths reach both ways to merge.
	v := ranked(t, "ab", "bc", "abc", "ca", "aa", "aaa", "aaaa", "bca", "cab", "abcab", "bb", "ccc", "cc", "aaaaaaaa", "bcabc")
	pairs, err := NewPairs(v, []string{"b", "a", "ab", "a", "bc", "aa", "c", "cc", "aa"}, []string{"c", "b", "c", "a", "a", "aa", "c", "c", "a"})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, e := range []*Encoding{NewRanked(v, GPT2), NewPaired(v, GPT2, pairs, false), NewPaired(v, GPT2, pairs, true)} {
		for i := range 800 {
			b := make([]byte, 1+r.IntN(1+i/5))
			for j := range b {
				b[j] = "abc"[r.IntN(1+r.IntN(3))]
			}
			piece := string(b) // only letters, so one piece
			if got, want := e.Append(nil, piece), obvious(e, piece); !slices.Equal(got, want) {
				t.Fatalf("tokens of %q:\n got %v\nwant %v", piece, got, want)
			}
			if n := e.Count(piece); n != len(obvious(e, piece)) {
				t.Fatalf("Count(%q) = %d, want %d", piece, n, len(obvious(e, piece)))
			}
		}
	}
}

func FuzzMergeEqualsDefinition(f *testing.F) {
	f.Add("abcabcabcaaaa", 3)
	f.Add(strings.Repeat("ab", 60), 200)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		if len(text) > 300 || len(text) == 0 {
			t.Skip("too slow for the definition")
		}
		text = valid(text)
		tokens := map[string]bool{}
		for i := 0; i+3 <= len(text); i += 1 + max(cut, 0)%7 {
			tokens[text[i:i+2]] = true
			tokens[text[i:i+3]] = true
		}
		var list []string
		for s := range tokens {
			list = append(list, s)
		}
		slices.Sort(list)
		e := NewRanked(ranked(t, list...), GPT2)
		var want []int32
		for _, piece := range pieces(text, GPT2) {
			want = append(want, obvious(e, piece)...)
		}
		if got := e.Append(nil, text); !slices.Equal(got, want) {
			t.Errorf("tokens of %q:\n got %v\nwant %v", text, got, want)
		}
	})
}

func TestInvalidVocabularyIsError(t *testing.T) {
	var bytes []string
	for b := range 256 {
		bytes = append(bytes, string([]byte{byte(b)}))
	}
	for _, test := range []struct {
		tokens []string
		want   string
	}{
		{nil, "of 0 tokens"},
		{append(slices.Clone(bytes[1:]), "ab"), "the byte 0x00"},
		{append(slices.Clone(bytes), "ab", "cd", "ab"), `"ab" twice`},
	} {
		if _, err := newVocab(test.tokens); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("NewVocab of %d tokens = %v, want an error with %q", len(test.tokens), err, test.want)
		}
	}
	if _, err := NewVocab("abc", slices.Repeat([]uint32{9}, 300)); err == nil {
		t.Error("NewVocab with offsets past its bytes returns no error")
	}
	if _, err := NewPairs(ranked(t, "ab"), []string{"b"}, []string{"a"}); err == nil || !strings.Contains(err.Error(), `"b" and "a"`) {
		t.Errorf("NewPairs = %v, want an error that names the merge", err)
	}
}

// BenchmarkMerge shows from which size a heap is faster than a scan: see scanBelow.
func BenchmarkMerge(b *testing.B) {
	v := ranked(b, "ab", "bc", "abc", "ca", "aa", "bca", "cab", "bb", "cc")
	e := NewRanked(v, GPT2)
	for _, n := range []int{16, 32, 48, 96, 192} {
		r := rand.New(rand.NewPCG(1, 2))
		letters := make([]byte, n)
		for i := range letters {
			letters[i] = "abc"[r.IntN(3)]
		}
		piece := string(letters)
		var m merger
		b.Run(fmt.Sprintf("scan/%d", n), func(b *testing.B) {
			for b.Loop() {
				m.reset(e, piece)
				m.byScan(e, piece)
			}
		})
		b.Run(fmt.Sprintf("heap/%d", n), func(b *testing.B) {
			for b.Loop() {
				m.reset(e, piece)
				m.byHeap(e, piece)
			}
		})
	}
}
