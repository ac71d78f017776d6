package main

import (
	"context"
	"fmt"
	"os"

	"github.com/choked/choked/server"
)

// token makes a token, which it shows this once, and the line by which a file
// of tokens lists it.
func token(_ context.Context, f *flags, args []string) error {
	var file, caps string
	f.StringVar(&file, "file", "", "`file` of tokens to which the line is added; without it the line is printed, too")
	f.StringVar(&caps, "caps", "", "`caps` of the token, as in \"asks=100 rate=500/s\"")
	if err := f.parse(args, 1, 1, "namespace"); err != nil {
		return err
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
	if within, err := endsInALine(out); err != nil {
		return err
	} else if within {
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

// endsInALine reports whether f ends within a line, as some editors leave it.
func endsInALine(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, info.Size()-1)
	return last[0] != '\n', err
}
