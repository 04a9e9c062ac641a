// Package cleanup takes one flanneld off a host: what it made in the kernel, its
// processes and its files go, and switches that it changed are as it found them.
// Everything else on the host stays as it is, byte for byte.
//
// It owns the order of a cleanup and what is said of it. What is ours the drivers
// know: they are asked to make an empty wanted state true. It never speaks with a
// store. Called by the daemon (--cleanup-on-exit) and by cmd/flannelctl.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

var (
	// ErrRunning says that the flanneld runs that is to be cleaned up after.
	ErrRunning = errors.New("flanneld runs here")
	errRoot    = errors.New("must run as root")
)

// Options say which flanneld, and what is spared.
type Options struct {
	SubnetFile    string // names the instance
	StateDir      string
	ControlSocket string
	// Networks are cluster networks beside those that the files name.
	Networks       []netip.Prefix
	KeepState      bool // the host keeps its identity
	KeepForwarding bool // switches stay as they are
	// AllowExtension lets commands of the extension backend undo what others made.
	AllowExtension bool
	// DryRun says what would go, and changes nothing.
	DryRun bool
	// Held: the caller is that flanneld, and holds the locks of its files.
	Held bool
	// Release gives back the leases of this host id; nil: they stay until they
	// expire. It names what was released, and what is reserved for the host and
	// stays.
	Release func(ctx context.Context, host string) (released, reserved []string, err error)
	// Build is the version of this program: of a forwarder of another one it is
	// said.
	Build string
	// Say hears of each object, at once.
	Say func(Line)
	Log *slog.Logger // what drivers have to say; nil is silent
}

// Act is what became of an object.
type Act string

// The acts.
const (
	Removed  Act = "removed"
	Released Act = "released" // a lease
	Restored Act = "set back" // a kernel switch
	Left     Act = "left"     // on purpose; Why says which
	Failed   Act = "failed"   // Why says how
)

// Line is one object.
type Line struct {
	Act    Act
	Object string
	Why    string
}

// Report is the sum of a cleanup.
type Report struct {
	Done    int // removed, released and set back
	Left    int
	Failed  int
	Running bool // of a dry run: flanneld runs
}

// Run cleans up. Its error says that nothing was tried; what failed meanwhile is
// in the report and was said.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		return Report{}, errRoot
	}
	c := &cleaner{o: o, owner: state.OwnerOf(o.SubnetFile)}
	c.networks = c.findNetworks()
	running := !o.Held && answers(ctx, o.ControlSocket)
	if o.DryRun {
		c.report.Running = running
		c.preview(ctx)
		return c.report, nil
	}
	if running {
		return c.report, fmt.Errorf("%w and answers on %s: stop it first (systemctl stop flanneld)", ErrRunning, o.ControlSocket)
	}
	if o.Release == nil && !c.anything(ctx) {
		c.elsewhere(ctx, nil)
		c.strangers()
		return c.report, nil // and no lock file made for it
	}
	locks, err := c.lock()
	if err != nil {
		return c.report, err
	}
	c.release(ctx)
	c.kernel(ctx)
	c.switches(ctx)
	c.files()
	for _, l := range locks {
		_ = l.Close() // its file is gone
	}
	c.directories()
	return c.report, nil
}

// cleaner is one cleanup.
type cleaner struct {
	o        Options
	owner    state.Owner
	networks []netip.Prefix
	keepID   bool // the lease could not be released: a later try needs it
	report   Report
}

func (c *cleaner) say(a Act, object, why string) {
	switch a {
	case Left:
		c.report.Left++
	case Failed:
		c.report.Failed++
	case Removed, Released, Restored:
		c.report.Done++
	}
	if c.o.Say != nil {
		c.o.Say(Line{Act: a, Object: object, Why: why})
	}
}

// failed says so, unless err is nil.
func (c *cleaner) failed(object string, err error) {
	if err != nil {
		c.say(Failed, object, err.Error())
	}
}

// answers says whether somebody listens on the socket.
func answers(ctx context.Context, socket string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// lock keeps a flanneld from starting meanwhile.
func (c *cleaner) lock() ([]io.Closer, error) {
	if c.o.Held {
		return nil, nil
	}
	file, err := identity.Lock(c.o.SubnetFile)
	if err != nil {
		return nil, held(err, identity.LockOf(c.o.SubnetFile))
	}
	dir, err := identity.Hold(c.o.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return []io.Closer{file}, nil
	}
	if errors.Is(err, unix.EROFS) { // nobody else can take it either
		c.failed(c.o.StateDir, bare(err))
		return []io.Closer{file}, nil
	}
	if err != nil {
		return nil, errors.Join(held(err, c.o.StateDir), file.Close())
	}
	return []io.Closer{file, dir}, nil
}

// held is the error of a lock.
func held(err error, what string) error {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w and holds %s: stop it first (systemctl stop flanneld)", ErrRunning, what)
	}
	return err
}

// release gives the lease back first: peers stop sending here before this host
// stops to answer.
func (c *cleaner) release(ctx context.Context) {
	if c.o.Release == nil {
		return
	}
	if _, err := os.Stat(filepath.Join(c.o.StateDir, identity.HostIDFile)); errors.Is(err, fs.ErrNotExist) {
		c.say(Left, "leases in the store", "this host has no id in "+c.o.StateDir+" to tell its own by")
		return
	}
	host, err := identity.Peek(c.o.StateDir)
	var released, reserved []string
	if err == nil {
		released, reserved, err = c.o.Release(ctx, host)
	}
	for _, l := range released {
		c.say(Released, "lease "+l, "")
	}
	for _, l := range reserved {
		c.say(Left, "lease "+l, "it is reserved for this host: flannelctl lease release ends it")
	}
	c.failed("lease in the store", err)
	c.keepID = err != nil
}
