package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// parse parses args and takes no others. A mistake is told once, by the error:
// the flag package by itself would print it, and all flags, before.
func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		flags.Usage()
		return err
	case err != nil:
		return fmt.Errorf("%w: see %s --help", err, flags.Name())
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q: see %s --help", flags.Arg(0), flags.Name())
	default:
		return nil
	}
}
