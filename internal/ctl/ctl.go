// Package ctl is flannelctl: what a person or a program can ask of the daemon
// on this host and of the store that all hosts share.
//
// It owns the commands, their words and their exit codes. It reaches the
// world only through Env, so that every command runs in a test as it runs in
// a shell, and it imports no store. cmd/flannelctl calls Run.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// The exit codes.
const (
	ExitOK       = 0
	ExitError    = 1
	ExitNotReady = 3 // status: the daemon answers, but is not ready
)

// Env is everything outside that commands use. Every field is needed.
type Env struct {
	Version string
	Now     func() time.Time
	Environ []string // as os.Environ
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	// Dial opens the store.
	Dial func(context.Context, StoreOptions) (*Store, error)
	// Restore makes a data directory of a snapshot and says what was in it, and
	// where the former directory is now, if there was one. It fails with ErrBusy
	// and ErrNotEmpty.
	Restore func(Restore) (info SnapshotInfo, aside string, err error)
	// Cleanup takes flanneld off this host. Its error says that nothing was tried.
	Cleanup func(context.Context, Cleanup) (CleanupReport, error)
	// CheckBackend checks the Backend object of a config by the rules of the
	// backend that it names.
	CheckBackend func(config.Network) (warnings []string, err error)
	// Follow says how running daemons follow a change of the config: from one way
	// to carry packets to another, if these differ; the error says why they do not.
	Follow func(was, is config.Network) (from, to string, err error)
	// RouteTable is the kernel's list of IPv4 routes: /proc/self/net/route.
	RouteTable string
}

// exit is an error that only carries an exit code; everything was said.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// Run runs flannelctl with args (without the program's name) and returns its
// exit code.
func Run(ctx context.Context, env Env, args []string) int {
	root := Command(env) //nolint:contextcheck // cobra hands ctx to every command
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exit
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &code):
		return int(code)
	default:
		// Nobody is left to tell if this cannot be written.
		_, _ = fmt.Fprintf(env.Stderr, "flannelctl: %s\n", clean(err.Error()))
		return ExitError
	}
}

// near is up to how many letters apart a mistyped command is recognised.
const near = 2

// app is the state of one run.
type app struct {
	Env
	socket string
	output format
	store  StoreOptions
}

// Command builds the tree of commands.
func Command(env Env) *cobra.Command {
	a := &app{Env: env, output: asTable}
	root := &cobra.Command{
		Use:   "flannelctl",
		Short: "Look at a flannel-ng fabric and change its leases and config",
		Long: `flannelctl asks the flanneld of this host over its control socket (status,
plan, events), works on the store that all hosts share (lease, config, store),
and takes flanneld off this host (cleanup).

Exit codes: 0 done, 1 error, 3 not ready (status).`,
		Args:          cobra.ArbitraryArgs,
		RunE:          helpOrUnknown,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: near,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
	})
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", state.ControlSocket(state.DefaultSubnetFile),
		"control socket of flanneld, its --control-socket")
	flags.VarP(&a.output, "output", "o", "table for people, json for programs")
	a.store.register(flags)
	root.AddCommand(
		a.statusCommand(), a.planCommand(), a.eventsCommand(),
		a.leaseCommand(), a.configCommand(), a.storeCommand(),
		a.dockerOptsCommand(), a.cleanupCommand(), a.versionCommand(),
	)
	return root
}

// group is a command that only has others below it. Cobra alone would answer
// a mistyped one with the help and success.
func group(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: helpOrUnknown, SuggestionsMinimumDistance: near}
}

// helpOrUnknown runs a command that has others below it.
func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := ""
	if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
		hint = ", did you mean " + strings.Join(names, " or ") + "?"
	}
	return fmt.Errorf("unknown command %q for %q%s: see %s --help", args[0], cmd.CommandPath(), hint, cmd.CommandPath())
}

// none refuses arguments, in place of cobra.NoArgs, which takes them for
// mistyped commands.
func none(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected argument %q: see %s --help", args[0], cmd.CommandPath())
}

// one wants a single argument and names it.
func one(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s needs %s: see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return none(cmd, args[1:])
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of flannelctl",
		Args:  none,
		RunE: func(*cobra.Command, []string) error {
			return a.show(map[string]string{"version": a.Version}, func(w io.Writer) {
				put(w, "flannelctl %s\n", a.Version)
			})
		},
	}
}

// lookupEnv finds an environment variable; an empty one counts as unset, as
// flannel has it.
func (a *app) lookupEnv(name string) (string, bool) {
	for _, kv := range a.Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok && v != "" {
			return v, true
		}
	}
	return "", false
}
