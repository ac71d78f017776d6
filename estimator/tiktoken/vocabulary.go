package tiktoken

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"sync"

	"github.com/pkoukk/tiktoken-go-loader/assets"

	"github.com/choked/choked/estimator/internal/bpe"
)

// The encodings are loaded at first use, once in a process, and shared by all
// estimators. They are immutable and take up to 7 MB each.
var (
	o200k  = sync.OnceValues(func() (*bpe.Encoding, error) { return load("o200k_base", bpe.O200K) })
	cl100k = sync.OnceValues(func() (*bpe.Encoding, error) { return load("cl100k_base", bpe.CL100K) })
)

// load reads a vocabulary from the files that tiktoken-go's offline loader embeds
// in the binary. The loader's own reader is not used: it takes ten times as long.
func load(name string, split bpe.Split) (*bpe.Encoding, error) {
	file, err := assets.Assets.ReadFile(name + ".tiktoken")
	if err != nil {
		return nil, fmt.Errorf("load vocabulary %s: %w", name, err)
	}
	arena, offsets, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("load vocabulary %s: %w", name, err)
	}
	v, err := bpe.NewVocab(arena, offsets)
	if err != nil {
		return nil, fmt.Errorf("load vocabulary %s: %w", name, err)
	}
	return bpe.NewRanked(v, split), nil
}

// parse reads a vocabulary. Each line holds a token in base64, a space and the
// rank of the token. The ranks must be 0, 1, 2 and so on, so that a rank can be an
// index.
func parse(file []byte) (arena string, offsets []uint32, err error) {
	// Four letters of base64 hold three bytes, so len(file) bytes hold all tokens.
	tokens := make([]byte, len(file))
	size, ranks := 0, bytes.Count(file, []byte{'\n'})+1
	offsets = make([]uint32, 1, ranks+1)
	for len(file) > 0 {
		var line []byte
		line, file, _ = bytes.Cut(file, []byte{'\n'})
		if len(line) == 0 {
			continue
		}
		token, rank, _ := bytes.Cut(line, []byte{' '})
		if r, err := strconv.Atoi(string(rank)); err != nil || r != len(offsets)-1 {
			return "", nil, fmt.Errorf("line %d: rank %q: want %d", len(offsets), rank, len(offsets)-1)
		}
		n, err := base64.StdEncoding.Decode(tokens[size:], token)
		if err != nil {
			return "", nil, fmt.Errorf("line %d: token %q: %w", len(offsets), token, err)
		}
		size += n
		offsets = append(offsets, uint32(size))
	}
	return string(tokens[:size]), offsets, nil
}
