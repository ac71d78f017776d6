package voyage_test

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/voyage"
)

// The tokenizer of this example is tiny. The real ones are published at
// https://huggingface.co/voyageai.
func ExampleLoad() {
	e, err := voyage.Load("testdata/tiny/tokenizer.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	cost, err := e.Estimate([]byte(`{"model": "voyage-3", "input": ["low", "lower and lower"], "input_type": "query"}`))
	fmt.Println(cost.Input, err)
	// Output: 8 <nil>
}

// Without the file an estimate is still possible. Calibration corrects it by the
// usage that Voyage reports.
func ExampleLoad_withoutFile() {
	load := func(path string) (estimator.Estimator, error) {
		e, err := voyage.Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			e, err := estimator.New("voyageai")
			if err != nil {
				return nil, err
			}
			return estimator.Calibrate(e), nil
		}
		if err != nil {
			return nil, err
		}
		return e, nil
	}
	e, err := load("testdata/none/tokenizer.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	cost, err := e.Estimate("The quick brown fox jumps over the lazy dog.")
	fmt.Println(cost.Input, err)
	// Output: 11 <nil>
}
