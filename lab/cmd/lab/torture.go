package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/flannel-ng/flannel-ng/lab/torture"
)

var errMismatches = errors.New("packets did not arrive as they were sent")

// tortureTest sends known packets through all combinations of data paths.
func tortureTest(ctx context.Context, args []string) error {
	o := torture.Options{Progress: os.Stderr}
	flags := flag.NewFlagSet("lab torture", flag.ContinueOnError)
	flags.BoolVar(&o.Full, "full", true, "every size and jumbo underlays")
	flags.StringVar(&o.Groups, "groups", "", "regular expression of the subjects to run")
	paths := flags.String("paths", "", "data paths to combine, separated by commas: vxlan, reference, user, kernel")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *paths != "" {
		o.Paths = strings.Split(*paths, ",")
	}
	var err error
	if o.Binaries, err = ownBinaries(); err != nil {
		return err
	}
	all, err := torture.Run(ctx, o)
	if len(all) > 0 {
		fmt.Print(torture.Summary(all))
	}
	for _, t := range all {
		if t.Mismatches > 0 {
			err = errors.Join(err, errMismatches)
			break
		}
	}
	return err
}
