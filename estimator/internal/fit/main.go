// Command fit makes weights.go of package quick: the weight of every pair of
// byte classes, fitted so that their sum is nearest, in relative terms, to the
// number of tokens that the o200k encoding gives. FIT.md beside weights.go says
// what it was run on.
//
//	go run ./estimator/internal/fit -out estimator/internal/quick/weights.go DIR
//
// Each folder of DIR is a kind of text, as corpus.sh gathers them. Files in it
// are cut into texts of half to 8 KB; those of one file in four, by the hash of
// its path, are kept out of the fit and measure the error instead.
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
	perKind := flag.Int("texts", 600, "at most so many texts of each kind")
	flag.Parse()
	log.SetFlags(0)

	var texts []text
	kinds, err := os.ReadDir(flag.Arg(0))
	if err != nil {
		log.Fatalf("fit: %v: want the directory that corpus.sh made", err)
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
		log.Fatal("fit: no texts: want a directory with a folder for each kind")
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
