package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFitRecoversKnownWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	truth := map[int]float64{3: 0.1, 70: 0.5, 900: 1, 901: 0.25}
	var texts []text
	for i := range 300 {
		x := text{kind: "made", held: i%4 == 0, weight: 1}
		for f, w := range truth {
			x.features[f] = 50 + r.Int32N(1000)
			x.tokens += float64(x.features[f]) * w
		}
		texts = append(texts, x)
	}
	w := fit(texts)
	for i := range texts {
		if e := relative(&texts[i], w); e > 0.01 || e < -0.01 {
			t.Fatalf("text %d is off by %.2f%%, want at most 1%%", i, 100*e)
		}
	}
	if w[5] != usualWeight {
		t.Errorf("a pair that occurs in no text has the weight %g, want %g", w[5], usualWeight)
	}
	var out bytes.Buffer
	report(&out, texts, w)
	if !strings.Contains(out.String(), "| made | 75 | 0.") {
		t.Errorf("the report does not show the 75 texts held out:\n%s", out.String())
	}
	if src := string(source(w)); !strings.Contains(src, "DO NOT EDIT") || !strings.Contains(src, "1229, ") {
		t.Error("the source does not hold the usual weight of 0.3, which is 1229/4096")
	}
}

func TestFitKeepsToFloors(t *testing.T) {
	// Only the first floor has the pairs 10 and 11. The second floor is below the
	// cost of the pair 12 in the written text, and must not lower it.
	texts := []text{{kind: "written", weight: 1, tokens: 50}, {floor: true, weight: 0.1, tokens: 80}, {floor: true, weight: 0.1, tokens: 20}}
	texts[0].features[12] = 100
	texts[1].features[10], texts[1].features[11] = 50, 50
	texts[2].features[12] = 100
	w := fit(texts)
	if low := relative(&texts[1], w); low < -0.02 {
		t.Errorf("a floor is missed by %.1f%%", -100*low)
	}
	if off := relative(&texts[0], w); off < -0.01 || off > 0.01 {
		t.Errorf("beside floors a text is off by %.2f%%", 100*off)
	}
}

func TestMadeTextsAreRepeatableAndDiverse(t *testing.T) {
	texts, err := makeTexts(2000)
	if err != nil {
		t.Fatal(err)
	}
	again, err := makeTexts(2000)
	if err != nil {
		t.Fatal(err)
	}
	pairs := 0
	for f := range texts[0].features {
		seen := false
		for i := range texts {
			if texts[i].features[f] != again[i].features[f] {
				t.Fatalf("text %d differs in the second run", i)
			}
			seen = seen || texts[i].features[f] > 0
		}
		if seen {
			pairs++
		}
	}
	if pairs < 700 {
		t.Errorf("the texts have %d pairs, want at least 700", pairs)
	}
}

func TestHeldOutTextsDoNotDependOnDirectory(t *testing.T) {
	read := func() (held []bool) {
		dir := t.TempDir()
		for i := range 20 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.txt", i)), bytes.Repeat([]byte{byte('a' + i)}, 600), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		texts, err := readTexts("made", dir, 20)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range texts {
			held = append(held, x.held)
		}
		return held
	}
	if a, b := read(), read(); !slices.Equal(a, b) || !slices.Contains(a, true) {
		t.Errorf("held out of two copies of a corpus: %t and %t, want the same, and some", a, b)
	}
}

func TestMarkupIsRemoved(t *testing.T) {
	page := ".TH X 1\n.SH NAME\nls \\- list \\fBfiles\\fP\n.\\\" comment\n'in 3\n"
	if got, want := unroff(page), "ls - list files\n"; got != want {
		t.Errorf("unroff = %q, want %q", got, want)
	}
	if got, want := withoutTags("<p>a &amp; <b>b</b></p>\n\n <!-- c\n --> d"), "a & b\nd"; got != want {
		t.Errorf("withoutTags = %q, want %q", got, want)
	}
	// The catalogue has a header and two strings, one with a plural.
	var mo bytes.Buffer
	stored := []string{"Header: x", "eins", "zwei\x00drei"}
	offset := uint32(28)
	for _, v := range []uint32{0x950412de, 0, 3, 28, 28, 0, 0} {
		binary.Write(&mo, binary.LittleEndian, v)
	}
	offset += uint32(8 * len(stored))
	for _, s := range stored {
		binary.Write(&mo, binary.LittleEndian, [2]uint32{uint32(len(s)), offset})
		offset += uint32(len(s))
	}
	mo.WriteString(strings.Join(stored, ""))
	if got, want := translations(mo.Bytes()), "eins\nzwei\ndrei\n"; got != want {
		t.Errorf("translations = %q, want %q", got, want)
	}
	for cut := range mo.Len() {
		translations(mo.Bytes()[:cut]) // a truncated catalogue must not panic
	}
}
