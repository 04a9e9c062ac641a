// Command flannelctl looks at a fabric and changes its leases and config. All
// logic is in internal/ctl; here it meets the operating system, the drivers and
// etcd.
package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/ctl"
)

// version is set by the linker (make build).
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	return ctl.Run(ctx, ctl.Env{
		Version:      version,
		Now:          time.Now,
		Environ:      os.Environ(),
		Stdin:        os.Stdin,
		Stdout:       os.Stdout,
		Stderr:       os.Stderr,
		Dial:         dial,
		Restore:      restore,
		Cleanup:      takeOff,
		CheckBackend: checkBackend,
		Follow:       follow,
		RouteTable:   "/proc/self/net/route",
	}, args)
}

// follow is what daemons decide.
func follow(was, is config.Network) (from, to string, err error) {
	a, b, err := transit.Kit{Wire: all.Wire, New: all.New}.Follow(was, is)
	return a.Wire.Name, b.Wire.Name, err
}

// checkBackend makes the backend as a daemon would, and lets it go. Whether a
// host allows commands is that host's word.
func checkBackend(n config.Network) (warnings []string, err error) {
	_, warnings, err = all.New(backend.Setup{Options: n.Backend, Families: n.Families(), Commands: true})
	return warnings, err
}
