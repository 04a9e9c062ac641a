package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/bench"
)

// benchmark measures, writes the table to standard output, and the result to a
// file.
func benchmark(ctx context.Context, args []string) error {
	o, file, err := benchFlags(args)
	if err != nil {
		return err
	}
	result, err := bench.Run(ctx, o)
	if result == nil {
		return err
	}
	fmt.Print(result.Text())
	return errors.Join(err, result.Save(file))
}

func benchFlags(args []string) (o bench.Options, file string, err error) {
	flags := flag.NewFlagSet("lab bench", flag.ContinueOnError)
	flags.IntVar(&o.Rounds, "rounds", 5, "rounds over the data paths")
	flags.IntVar(&o.Peers, "peers", 20000, "peers in the rows of convergence")
	rows := flags.String("rows", "", "rows to measure, separated by commas; none is all")
	flags.StringVar(&file, "out", "bin/bench/bench.json", "file for the result")
	if err := parse(flags, args); err != nil {
		return o, "", err
	}
	if o.Rounds < 1 || o.Peers < 10 {
		return o, "", fmt.Errorf("--rounds=%d --peers=%d: want at least 1 and 10", o.Rounds, o.Peers)
	}
	if *rows != "" {
		o.Rows = strings.Split(*rows, ",")
	}
	o.Progress = os.Stderr
	o.Binaries, err = ownBinaries()
	return o, file, err
}

// ownBinaries are beside this program.
func ownBinaries() (lab.Binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return lab.Binaries{}, fmt.Errorf("find my own directory: %w", err)
	}
	return lab.BinariesIn(filepath.Dir(self))
}
