// Command docgen writes docs/chaos.md from the committed result of a run.
//
// It owns nothing but the file that it writes. It never breaks anything; called
// by go generate.
package main

import (
	"log"
	"os"

	"github.com/flannel-ng/flannel-ng/lab/chaos"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: docgen RESULT FILE")
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func write(result, file string) error {
	r, err := chaos.Load(result)
	if err != nil {
		return err
	}
	text, err := chaos.Document(r)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
