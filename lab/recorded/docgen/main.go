// Command docgen writes docs/recorded-facts.md from the recordings and the
// table of differences.
//
// It owns nothing but the file that it writes. It never runs in a daemon;
// called by go generate.
package main

import (
	"log"
	"os"

	"github.com/flannel-ng/flannel-ng/lab/recorded"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: docgen RECORDINGS FILE")
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func write(recordings, file string) error {
	table, cases, err := recorded.Load(os.DirFS(recordings))
	if err != nil {
		return err
	}
	text, err := recorded.Document(table, cases)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
