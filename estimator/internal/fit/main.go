// Command fit makes weights.go of package estimator: the weight of every pair of
// byte classes, fitted so that their sum is nearest, in relative terms, to the
// number of tokens that the o200k encoding gives. FIT.md beside weights.go says
// what it was run on.
//
//	go run ./estimator/internal/fit -out estimator/weights.go kind=dir ...
//
// A kind is a name to report the error by. Files below dir are cut into texts
// of 1 to 8 KB; one in four, by the hash of the path, is kept out of the fit and
// measures the error instead.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
)

func main() {
	out := flag.String("out", "", "write the weights to this Go file")
	perKind := flag.Int("texts", 600, "at most so many texts of each kind")
	flag.Parse()
	log.SetFlags(0)

	var texts []text
	for _, arg := range flag.Args() {
		kind, dir, ok := strings.Cut(arg, "=")
		if !ok {
			log.Fatalf("fit: argument %q: want kind=dir", arg)
		}
		found, err := readTexts(kind, dir, *perKind)
		if err != nil {
			log.Fatal(err)
		}
		texts = append(texts, found...)
	}
	if len(texts) == 0 {
		log.Fatal("fit: no texts: name directories as kind=dir")
	}
	w := fit(texts)
	report(os.Stdout, texts, w)
	if *out != "" {
		if err := os.WriteFile(*out, source(w), 0o644); err != nil {
			log.Fatal(err)
		}
		fmt.Println("wrote", *out)
	}
}
