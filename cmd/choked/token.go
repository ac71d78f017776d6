package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/choked/choked/server"
)

// token creates a token and prints it. Only its hash is kept: the line for a file of
// tokens.
func token(_ context.Context, f *flags, args []string) error {
	var file, caps string
	f.StringVar(&file, "file", "", "`file` of tokens to append to; without it the line for the file is printed after the token")
	f.StringVar(&caps, "caps", "", "`caps` of the token, as in \"asks=100 rate=500/s\"")
	if err := f.parse(args, 1, 1, "namespace"); err != nil {
		return err
	}
	if strings.ContainsFunc(f.Arg(0), unicode.IsSpace) {
		return wrong("namespace %.80q holds a space: want up to 64 lower-case letters, digits, dashes or underscores, or *", f.Arg(0))
	}
	token, hash := server.NewToken()
	line := hash + " " + f.Arg(0)
	if caps != "" {
		line += " " + caps
	}
	if err := server.CheckToken(line); err != nil {
		return &usageError{err}
	}
	if file == "" {
		_, err := fmt.Fprintf(f.stdout, "%s\n%s\n", token, line)
		return err
	}
	out, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if partial, err := endsInPartialLine(out); err != nil {
		return err
	} else if partial {
		line = "\n" + line
	}
	if _, err := fmt.Fprintln(out, line); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(f.stdout, token)
	return err
}

// endsInPartialLine reports whether the last line of f has no newline, as some
// editors leave it.
func endsInPartialLine(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, info.Size()-1)
	return last[0] != '\n', err
}
