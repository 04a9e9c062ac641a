package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/mesh"
)

// meshBench measures how many hosts come together, writes the table to standard
// output, and the result to a file.
func meshBench(ctx context.Context, args []string) error {
	o := mesh.Options{Progress: os.Stderr}
	flags := flag.NewFlagSet("lab mesh", flag.ContinueOnError)
	flags.IntVar(&o.Hosts, "hosts", 200, "hosts")
	flags.IntVar(&o.Leave, "leave", 10, "hosts that leave and return, in percent")
	flags.StringVar(&o.Backend, "backend", "", "backend type, or its JSON object; none is vxlan")
	flags.DurationVar(&o.Limit, "limit", 2*time.Minute, "bound of each step")
	file := flags.String("out", "bin/bench/mesh.json", "file for the result")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.Hosts < 2 || o.Leave < 0 || o.Leave > 90 {
		return fmt.Errorf("--hosts=%d --leave=%d: want at least 2, and 0 to 90", o.Hosts, o.Leave)
	}
	var err error
	if o.Binaries, err = ownBinaries(); err != nil {
		return err
	}
	result, err := mesh.Run(ctx, o)
	fmt.Print(result.Text())
	return errors.Join(err, result.Save(*file))
}
