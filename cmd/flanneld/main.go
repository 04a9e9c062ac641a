// Command flanneld holds this host's lease on the cluster network and keeps
// the kernel as the leases of all hosts want it. All logic is in daemon.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/daemon"
	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// version is set by the linker (make build).
var version = "dev"

// Exit codes. Zero is only for an orderly stop, so that a supervisor restarts
// a daemon that could not do its work (flannel-behaviour W17).
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) > 0 && args[0] == tunnel.Subcommand {
		return forward(args[1:])
	}
	o, err := options.Parse(args, os.Environ())
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(options.Usage())
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "flanneld: %s\nRun flanneld --help for all flags.\n", err)
		return exitUsage
	case o.Version:
		fmt.Fprintln(os.Stderr, version)
		return 0
	}
	log := logger(o)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := daemon.Run(ctx, daemon.Config{Options: o, Log: log, Version: version, Out: os.Stdout}); err != nil {
		log.Error("stopped", "err", err)
		return exitFailure
	}
	return 0
}
