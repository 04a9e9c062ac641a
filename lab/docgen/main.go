// Command docgen writes a page of docs/ from the committed result of a run.
//
// It owns nothing but the file that it writes. It never measures; called by go
// generate.
package main

import (
	"log"
	"os"

	"github.com/flannel-ng/flannel-ng/lab/bench"
	"github.com/flannel-ng/flannel-ng/lab/chaos"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: docgen bench|chaos RESULT FILE")
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func write(kind, result, file string) error {
	render := page(bench.Load, bench.Document)
	if kind == "chaos" {
		render = page(chaos.Load, chaos.Document)
	}
	text, err := render(result)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// page renders what load reads.
func page[R any](load func(string) (*R, error), document func(*R) (string, error)) func(string) (string, error) {
	return func(file string) (string, error) {
		r, err := load(file)
		if err != nil {
			return "", err
		}
		return document(r)
	}
}
