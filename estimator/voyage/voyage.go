// Package voyage counts tokens exactly as Voyage's models do, with the
// tokenizer.json that Voyage publishes for each of them and that you have on disk.
//
// Nothing is fetched. It reads byte-level BPE tokenizers with the split patterns
// of GPT-2, cl100k, o200k and Qwen; a file that needs anything else is an error
// that names it, never a count that is nearly right.
package voyage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/choked/choked/estimator"
)

// Estimator counts the tokens of an input by one tokenizer. It is safe for
// concurrent use. Make one with [Load].
type Estimator struct {
	path      string
	tokenizer *tokenizer
	counted   *estimator.Counted
}

// Load reads a tokenizer.json, or the one in a directory. The file is read once,
// in about a second for the largest that Voyage publishes, and not again: make one
// estimator and share it. The error names the file and what in it is not supported.
func Load(path string, opts ...estimator.Option) (*Estimator, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("voyage: tokenizer: %w", err)
	}
	if info.IsDir() {
		path = filepath.Join(path, "tokenizer.json")
	}
	t, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("voyage: tokenizer %s: %w", path, err)
	}
	opts = append([]estimator.Option{estimator.WithOverhead(estimator.VoyageEmbeddings)}, opts...)
	return &Estimator{path: path, tokenizer: t, counted: estimator.Using(t, opts...)}, nil
}

// New returns an estimator for a model, such as "voyage-3", from a cache
// directory that holds tokenizers by model: as MODEL/tokenizer.json,
// voyageai/MODEL/tokenizer.json, or as the Hugging Face hub's clients keep them.
//
// If the cache holds none for the model it returns what estimator.New("voyageai")
// does, which calibration brings close; a result of type [*Estimator] counts exactly. A
// file that is there but cannot be used, or a cache that cannot be searched, is
// an error.
func New(cache, model string, opts ...estimator.Option) (estimator.Estimator, error) {
	path, err := find(cache, model)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return estimator.New("voyageai", opts...)
	}
	e, err := Load(path, opts...)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// find looks for a model's tokenizer; "" means there is none.
func find(cache, model string) (string, error) {
	name := strings.TrimPrefix(model, "voyageai/")
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\*?[`) {
		return "", fmt.Errorf("voyage: model %q: want a model's name such as %q", model, "voyage-3")
	}
	if _, err := os.Stat(cache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("voyage: cache: %w", err)
	}
	hub := "models--voyageai--" + name
	for _, dir := range []string{name, filepath.Join("voyageai", name), hub, filepath.Join("hub", hub)} {
		dir = filepath.Join(cache, dir)
		snapshots, err := snapshots(dir)
		if err != nil {
			return "", fmt.Errorf("voyage: cache: %w", err)
		}
		for _, place := range append([]string{dir}, snapshots...) {
			path := filepath.Join(place, "tokenizer.json")
			// A link that leads nowhere is a file that cannot be used, not none.
			if _, err := os.Lstat(path); err == nil {
				return path, nil
			} else if !errors.Is(err, fs.ErrNotExist) {
				return "", fmt.Errorf("voyage: cache: %w", err)
			}
		}
	}
	return "", nil
}

// snapshots lists the revisions of a model that a client of the hub has kept in
// dir: the one that it calls main, then all others.
func snapshots(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	main, _ := os.ReadFile(filepath.Join(dir, "refs", "main")) // without it, any revision is as good
	var paths []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		paths = append(paths, filepath.Join(dir, "snapshots", e.Name()))
		if e.Name() == strings.TrimSpace(string(main)) {
			last := len(paths) - 1
			paths[0], paths[last] = paths[last], paths[0]
		}
	}
	return paths, nil
}

// Estimate returns the tokens that input will cost. The error names an input
// that no text can be taken from; see [estimator.Extract].
func (e *Estimator) Estimate(input any) (int64, error) { return e.counted.Estimate(input) }

// Counter returns the tokenizer itself, which counts the tokens of one text, all of it.
func (e *Estimator) Counter() estimator.Counter { return e.tokenizer }

// String names the estimator in a log.
func (e *Estimator) String() string { return fmt.Sprintf("voyage(%s)", e.path) }
