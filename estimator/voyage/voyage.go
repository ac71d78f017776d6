// Package voyage counts tokens exactly as Voyage's models do, by the
// tokenizer.json that Voyage publishes for each model. The file must be on disk:
// the package never uses a network.
//
// It reads byte-level BPE tokenizers with the split patterns of GPT-2, cl100k,
// o200k and Qwen. A file that needs any other feature gives an error that names
// the feature, never a count that is nearly right.
package voyage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/estimator"
)

// Estimator counts the tokens of an input by one tokenizer. It is safe for
// concurrent use. [Load] makes one; the zero value is not usable.
type Estimator struct {
	path      string
	tokenizer *tokenizer
	counted   *estimator.Counted
}

// Load reads a tokenizer.json. The path is that of the file, of the directory
// that holds it, or of a model in a cache of the Hugging Face hub, for example
// ~/.cache/huggingface/hub/models--voyageai--voyage-3, in which Load takes the
// revision that the hub calls main, or any other if there is none.
//
// The default overhead is estimator.VoyageEmbeddings. Reading the largest file
// that Voyage publishes takes about a second, and a file of more than 64 MB is
// refused. Load keeps no file open and reads the file once: make one estimator
// and share it.
//
// An error names the file and the cause. It wraps fs.ErrNotExist if there is no
// file, and not if a link leads to a missing one. A program may then estimate by
// estimator.New("voyageai"), which needs no file.
func Load(path string, opts ...estimator.Option) (*Estimator, error) {
	file, err := find(path)
	if err != nil {
		return nil, loadError(path, err)
	}
	t, err := readFile(file)
	if err != nil {
		return nil, loadError(file, err)
	}
	opts = append([]estimator.Option{estimator.WithOverhead(estimator.VoyageEmbeddings)}, opts...)
	return &Estimator{path: file, tokenizer: t, counted: estimator.Using(t, opts...)}, nil
}

// loadError names the file once: an error of package os names it too.
func loadError(path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok && p.Path == path {
		err = p.Err
	}
	return fmt.Errorf("load tokenizer %s: %w", path, err)
}

// find returns the tokenizer.json at path, in the directory path, or in a
// revision of the model that a cache of the hub has in path.
func find(path string) (string, error) {
	info, err := stat(path)
	if err != nil || !info.IsDir() {
		return path, err
	}
	revisions, err := revisions(path)
	if err != nil {
		return "", err
	}
	for _, dir := range append([]string{path}, revisions...) {
		file := filepath.Join(dir, "tokenizer.json")
		if _, err := os.Lstat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("no tokenizer.json in this directory: %w", fs.ErrNotExist)
}

// stat is os.Stat, but for a link that leads to a missing file: that is a broken
// installation, so the error is not fs.ErrNotExist.
func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, linkErr := os.Lstat(path); linkErr == nil {
			return nil, errors.New("the link leads to a missing file")
		}
	}
	return info, err
}

// revisions lists the directories of the revisions that a cache of the hub has of
// the model in dir: first main, then all others by name.
func revisions(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // not a model in such a cache
		}
		return nil, err
	}
	main, _ := os.ReadFile(filepath.Join(dir, "refs", "main")) // without it the order does not matter
	var dirs []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		revision := filepath.Join(dir, "snapshots", e.Name())
		if e.Name() == strings.TrimSpace(string(main)) {
			dirs = slices.Insert(dirs, 0, revision)
		} else {
			dirs = append(dirs, revision)
		}
	}
	return dirs, nil
}

// Estimate returns the tokens that input will cost, as [estimator.Estimator] says. An error
// wraps [estimator.ErrNoText] and names the input; see [estimator.Extract] for
// the accepted ones.
func (e *Estimator) Estimate(input any) (bucket.Cost, error) { return e.counted.Estimate(input) }

// Counter returns the tokenizer as a counter of the tokens of single texts, which
// counts the whole of a text and adds no overhead.
func (e *Estimator) Counter() estimator.Counter { return e.tokenizer }

// String describes the estimator for a log, with the file that it counts by.
func (e *Estimator) String() string { return fmt.Sprintf("voyage(%s)", e.path) }
