package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/forwarder"
)

const forwardUsage = `Usage: flanneld forward --socket PATH [--build TEXT] [--log-format text|json]

Moves the packets of the udp backend. flanneld starts it by itself and leaves
it running when it ends; it ends when flanneld says so, on SIGTERM, or when its
TUN device is deleted. Whoever answers on PATH hands over to it and ends.

  --socket PATH      where flanneld and a successor speak with it
  --build TEXT       what it calls its build (default: flanneld's version)
  --log-format NAME  of the lines on standard error: text or json
`

// processName is what top and ps -o comm show: the kernel would say exe.
const processName = "flanneld-fwd"

// stderr is the last descriptor that is meant for us.
const stderr = 2

// forward is `flanneld forward`: this process is a forwarder and nothing else.
func forward(args []string) int {
	o := forwarder.Options{Build: version}
	format := string(options.FormatText)
	flags := flag.NewFlagSet("flanneld "+tunnel.Subcommand, flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.Usage = func() { fmt.Print(forwardUsage) }
	flags.StringVar(&o.Socket, "socket", "", "")
	flags.StringVar(&o.Build, "build", o.Build, "")
	flags.StringVar(&format, "log-format", format, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case o.Socket == "" || flags.NArg() > 0:
		return misused("needs --socket and takes no arguments")
	case format != string(options.FormatText) && format != string(options.FormatJSON):
		return misused("--log-format must be text or json")
	}
	o.Log = logger(options.Options{LogFormat: options.Format(format)}).With("forwarder", o.Socket)
	return serve(o)
}

func misused(why string) int {
	fmt.Fprintf(os.Stderr, "flanneld forward: %s\n%s", why, forwardUsage)
	return exitUsage
}

// serve lives until it is told to end. What ends flanneld, a terminal or a
// supervisor's closed pipe, is not for us.
func serve(o forwarder.Options) int {
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP, unix.SIGINT)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	name(o.Log)
	if err := closeInherited(); err != nil {
		o.Log.Warn("files of the parent stay open", "err", err)
	}
	err := forwarder.Run(ctx, o)
	switch {
	case errors.Is(err, forwarder.ErrDeviceGone):
		o.Log.Info("forwarder ends", "why", err)
	case err != nil:
		o.Log.Error("forwarder ends", "err", err)
		return exitFailure
	default:
		o.Log.Info("forwarder ends as it was told")
	}
	return 0
}

func name(log *slog.Logger) {
	if err := os.WriteFile("/proc/self/comm", []byte(processName), 0); err != nil {
		log.Debug("process keeps its name", "err", err)
	}
}

// closeInherited closes what the parent's parent left open: whoever waits for
// the end of a pipe would wait for ours. All that this process opens itself is
// marked to be closed on exec, and that tells it apart.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= stderr {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // gone, as that of the listing is, or our own
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}
