package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Cleanup says which flanneld to take off this host, and what is spared.
type Cleanup struct {
	SubnetFile string
	// StateDir and ControlSocket are "" where flanneld's defaults count.
	StateDir, ControlSocket string
	Networks                []netip.Prefix
	KeepState               bool
	KeepForwarding          bool
	AllowExtension          bool
	DryRun                  bool
	// Release gives back the leases of a host id; nil: they stay. It names what
	// was released, and what is reserved for the host and stays.
	Release func(ctx context.Context, host string) (released, reserved []string, err error)
	Say     func(CleanupLine)
}

// CleanupLine is what became of one object.
type CleanupLine struct {
	Act    string `json:"act"` // removed, released, set back, left, failed
	Object string `json:"object"`
	Why    string `json:"why,omitempty"`
}

// CleanupReport is the sum.
type CleanupReport struct {
	Done    int  `json:"done"`
	Left    int  `json:"left"`
	Failed  int  `json:"failed"`
	Running bool `json:"running"` // of a dry run: flanneld runs
}

func (a *app) cleanupCommand() *cobra.Command {
	var (
		c        = Cleanup{}
		networks []string
		release  bool
	)
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take flanneld off this host: all that it made goes, nothing else",
		Long: `Remove all that a stopped flanneld left on this host, and set back the kernel
switches that it changed, unless somebody else changed them since. Containers
lose their way to other hosts. What others made stays as it is.

The flanneld is named by its subnet file; --subnet-file, --state-dir, --socket
and --allow-extension can also come from the environment, as for flanneld
(FLANNELD_SUBNET_FILE, FLANNELD_STATE_DIR, FLANNELD_CONTROL_SOCKET,
FLANNELD_ALLOW_EXTENSION). It refuses while that flanneld runs.

The lease in the store stays until it expires, and a flanneld that is started
here before gets it back; --release gives it back at once.

Exit codes: 0 all is gone or was not there, 1 something could not be removed: it
is named, and a second run tries again.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.cleanupInstance(cmd, &c); err != nil {
				return err
			}
			for _, text := range networks {
				p, err := netip.ParsePrefix(text)
				if err != nil {
					return fmt.Errorf("--network %s: want a network such as 10.5.0.0/16", text)
				}
				c.Networks = append(c.Networks, p.Masked())
			}
			if release && !c.DryRun {
				c.Release = func(_ context.Context, host string) (released, reserved []string, err error) {
					return a.releaseOf(cmd, host) //nolint:contextcheck // the command has it
				}
			}
			return a.cleanup(cmd.Context(), c)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.SubnetFile, "subnet-file", state.DefaultSubnetFile, "subnet file of the flanneld to clean up after")
	flags.StringVar(&c.StateDir, "state-dir", "", "its state directory, if it was given one")
	flags.StringSliceVar(&networks, "network", nil, "cluster network, if no file of flanneld names it any more")
	flags.BoolVar(&c.KeepState, "keep-state", false, "keep the state directory: the host's identity and its picture of the fabric")
	flags.BoolVar(&c.KeepForwarding, "keep-forwarding", false, "keep forwarding switched on, for Docker for example")
	flags.BoolVar(&c.AllowExtension, "allow-extension", false, "run commands of the extension backend that undo what others made")
	flags.BoolVar(&release, "release", false, "give this host's lease back to the store first")
	flags.BoolVar(&c.DryRun, "dry-run", false, "say what would be removed and remove nothing")
	return cmd
}

// cleanupInstance completes c by the environment.
func (a *app) cleanupInstance(cmd *cobra.Command, c *Cleanup) error {
	flags := cmd.Flags()
	for name, into := range map[string]*string{
		"subnet-file": &c.SubnetFile, "state-dir": &c.StateDir,
	} {
		if v, ok := a.lookupEnv(flagEnv(name)); ok && !flags.Changed(name) {
			*into = v
		}
	}
	if v, ok := a.lookupEnv(flagEnv("allow-extension")); ok && !flags.Changed("allow-extension") {
		allowed, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("environment variable %s: want true or false, not %q", flagEnv("allow-extension"), v)
		}
		c.AllowExtension = allowed
	}
	switch v, ok := a.lookupEnv(flagEnv("control-socket")); {
	case flags.Changed("socket"):
		c.ControlSocket = a.socket
	case ok:
		c.ControlSocket = v
	}
	_, named := a.lookupEnv(flagEnv("subnet-file"))
	if flags.Changed("socket") && !flags.Changed("subnet-file") && !named && a.socket != state.ControlSocket(c.SubnetFile) {
		return errors.New("--socket does not say which flanneld it is: give its --subnet-file, too")
	}
	return nil
}

func (a *app) cleanup(ctx context.Context, c Cleanup) error {
	lines := []CleanupLine{} // [] for programs, not null
	c.Say = func(l CleanupLine) {
		lines = append(lines, l)
		if a.output != asJSON {
			a.sayCleanup(c, l)
		}
	}
	report, err := a.Cleanup(ctx, c)
	if err != nil {
		return err
	}
	view := struct {
		CleanupReport
		DryRun bool          `json:"dryRun"`
		Lines  []CleanupLine `json:"lines"`
	}{report, c.DryRun, lines}
	if err := a.show(view, func(w io.Writer) { sumCleanup(w, c, report) }); err != nil {
		return err
	}
	if report.Failed > 0 {
		return exit(ExitError)
	}
	return nil
}

// sayCleanup writes a line as it comes: a cleanup takes its time.
func (a *app) sayCleanup(c Cleanup, l CleanupLine) {
	act := l.Act
	if c.DryRun && act != "left" && act != "failed" {
		act = "would be " + act
	}
	text := act + " " + oneLine(l.Object)
	if l.Why != "" {
		text += ": " + oneLine(l.Why)
	}
	put(a.Stdout, "%s\n", text)
}

func sumCleanup(w io.Writer, c Cleanup, r CleanupReport) {
	switch {
	case r.Done+r.Failed == 0:
		put(w, "nothing to do\n")
	case c.DryRun:
		put(w, "%d to remove or set back, %d left, %d failed\n", r.Done, r.Left, r.Failed)
	default:
		put(w, "%d removed or set back, %d left, %d failed\n", r.Done, r.Left, r.Failed)
	}
	if r.Running {
		put(w, "flanneld runs: a cleanup would refuse until it is stopped\n")
	}
}

// releaseOf ends the leases of a host id. The host's flanneld does not run, and
// its session may not have expired yet.
func (a *app) releaseOf(cmd *cobra.Command, host string) (released, reserved []string, err error) {
	err = a.withStore(cmd, func(s *Store) error {
		leases, err := s.Admin.Leases(cmd.Context())
		if err != nil {
			return err
		}
		var errs []error
		for _, l := range leases {
			switch {
			case l.Owner != host:
			case l.Reserved:
				reserved = append(reserved, l.Key)
			default:
				if err := s.Admin.Release(cmd.Context(), l.Key, true); err != nil {
					errs = append(errs, err)
					continue
				}
				released = append(released, l.Key)
			}
		}
		return errors.Join(errs...)
	})
	return released, reserved, err
}
