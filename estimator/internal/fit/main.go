// Command fit writes weights.go of package quick: a weight for each pair of byte
// classes, such that the sum of weights over a text has the least relative error
// against the tokens of the text in the o200k encoding. FIT.md beside weights.go
// describes the corpus and the result.
//
//	go run ./estimator/internal/fit -out estimator/internal/quick/weights.go DIR
//
// Each folder of DIR holds one kind of text, as corpus.sh gathers them. The files
// are cut into texts of 512 bytes to 8 KB. The texts of one file in four, by the hash
// of its path, are held out of the fit to measure the error.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("out", "", "write the weights to this Go file")
	perKind := flag.Int("texts", 600, "use at most this many texts of each kind")
	flag.Parse()
	log.SetFlags(0)

	var texts []text
	kinds, err := os.ReadDir(flag.Arg(0))
	if err != nil {
		log.Fatalf("fit: %v: want the directory that corpus.sh wrote", err)
	}
	for _, kind := range kinds {
		if !kind.IsDir() || strings.HasPrefix(kind.Name(), ".") {
			continue
		}
		found, err := readTexts(kind.Name(), filepath.Join(flag.Arg(0), kind.Name()), *perKind)
		if err != nil {
			log.Fatal(err)
		}
		texts = append(texts, found...)
	}
	if len(texts) == 0 {
		log.Fatalf("fit %s: no texts: want a folder for each kind of text", flag.Arg(0))
	}
	made, err := makeTexts(madeTexts)
	if err != nil {
		log.Fatal(err)
	}
	texts = append(texts, made...)
	w := fit(texts)
	report(os.Stdout, texts, w)
	if *out != "" {
		if err := os.WriteFile(*out, source(w), 0o644); err != nil {
			log.Fatal(err)
		}
		fmt.Println("wrote", *out)
	}
}
