package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/config"
)

// maxConfig bounds what is read as a config: etcd takes 1.5 MB, and nobody
// writes a tenth of this.
const maxConfig = 1 << 20

var errNoConfig = errors.New("the store has no network config: write one with flannelctl config set FILE")

func (a *app) configCommand() *cobra.Command {
	cmd := group("config", "Show, check and change the network config in the store")
	cmd.AddCommand(a.configGetCommand(), a.configCheckCommand(), a.configSetCommand())
	return cmd
}

func (a *app) configGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Print the network config as it is stored",
		Args:  none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd, func(s *Store) error {
				data, _, err := s.Configs.Get(cmd.Context())
				if err != nil {
					return err
				}
				if data == nil {
					return errNoConfig
				}
				_, err = a.Stdout.Write(append(bytes.TrimRight(data, "\n"), '\n'))
				return err
			})
		},
	}
}

func (a *app) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|-",
		Short: "Check a network config and print what it means, defaults included",
		Long: `Check a network config and print what it means, defaults included; keys of
the backend are shown as they are written. It asks neither store nor host.`,
		Args: one("FILE, or - for standard input"),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := a.read(args[0])
			if err != nil {
				return err
			}
			c, err := a.check(data)
			if err != nil {
				return invalid(args[0], err)
			}
			return a.show(c, func(w io.Writer) { writeConfig(w, c) })
		},
	}
}

func (a *app) configSetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set FILE|-",
		Short: "Check a network config and store it",
		Long: `Check a network config and store it, if it is valid and nobody else changed
the stored one meanwhile. What changed is printed, and what hosts do about it:
they go to another backend, port or VXLAN network while they run, without losing
packets (docs/live-change.md), or keep working by the config that they have until
they are restarted. There is a warning if hosts will get other subnets then.`,
		Args: one("FILE, or - for standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := a.read(args[0])
			if err != nil {
				return err
			}
			c, err := a.check(data)
			if err != nil {
				return fmt.Errorf("nothing was stored: %w", invalid(args[0], err))
			}
			return a.withStore(cmd, func(s *Store) error {
				return a.set(cmd.Context(), s.Configs, data, c)
			})
		},
	}
}

func invalid(file string, err error) error {
	if file == "-" {
		file = "standard input"
	}
	return fmt.Errorf("%s is not a valid network config:\n%w", file, err)
}

// read reads a file, or standard input for "-".
func (a *app) read(file string) ([]byte, error) {
	in := a.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes: no network config", file, maxConfig)
	}
	return data, nil
}

// checked is a valid config and what it means.
type checked struct {
	Settings []setting `json:"settings"`
	Warnings []string  `json:"warnings"`
	network  config.Network
}

func (a *app) check(data []byte) (checked, error) {
	n, err := config.Parse(data)
	if err != nil {
		return checked{}, err
	}
	warnings, err := a.CheckBackend(n)
	warnings = append(append([]string{}, n.Warnings...), warnings...)
	if err != nil {
		for _, w := range warnings { // a misspelt key may be behind the error
			err = errors.Join(err, config.Warning(w))
		}
		return checked{}, err
	}
	return checked{Settings: settingsOf(n), Warnings: warnings, network: n}, nil
}

// renumbering says which hosts get other subnets by a change of the config.
func renumbering(was, is config.Network) []string {
	var out []string
	for _, f := range was.Families() {
		old, pool := was.Pools.At(f), is.Pools.At(f)
		switch {
		case !pool.Network.IsValid():
		case !pool.Network.Overlaps(old.Network):
			out = append(out, fmt.Sprintf("%s: every host gets another subnet when flanneld is restarted there, and its containers "+
				"need new addresses; hosts of the old and the new network do not reach each other", f))
		case pool.SubnetLen != old.SubnetLen || old.Min.Addr().Less(pool.Min.Addr()) || pool.Max.Addr().Less(old.Max.Addr()):
			out = append(out, fmt.Sprintf("%s: a host whose subnet is not a /%d from %s to %s gets another one when flanneld is restarted there, "+
				"and its containers need new addresses; reservations inside the network stay", f, pool.SubnetLen, pool.Min.Addr(), pool.Max.Addr()))
		}
	}
	return out
}

func writeConfig(w io.Writer, c checked) {
	rows := [][]string{{"KEY", "VALUE"}}
	for _, s := range c.Settings {
		rows = append(rows, []string{s.Key, s.Value})
	}
	table(w, rows)
	lines(w, "warnings", c.Warnings)
}

// stored is the outcome of config set.
type stored struct {
	Stored  bool     `json:"stored"`
	Changes []change `json:"changes"`
	Restart bool     `json:"restart"` // daemons must be restarted to follow
	// From and To are how packets are carried, if daemons move from one to
	// another; Why is why they need a restart.
	From     string   `json:"from,omitempty"`
	To       string   `json:"to,omitempty"`
	Why      string   `json:"why,omitempty"`
	Warnings []string `json:"warnings"`
}

func (a *app) set(ctx context.Context, configs Configs, data []byte, c checked) error {
	old, rev, err := configs.Get(ctx)
	if err != nil {
		return err
	}
	out := stored{Changes: []change{}, Warnings: c.Warnings}
	if !bytes.Equal(old, data) {
		if err := configs.Set(ctx, data, rev); err != nil {
			return err
		}
		out.Stored = true
		was, before := meaning(old)
		out.Changes = compare(was, c.Settings)
		if was != nil && len(out.Changes) > 0 {
			a.follow(&out, before, c.network)
		}
		out.Warnings = append(out.Warnings, renumbering(before, c.network)...)
	}
	return a.show(out, func(w io.Writer) { writeStored(w, out) })
}

// follow says what hosts do about a change.
func (a *app) follow(out *stored, was, is config.Network) {
	from, to, err := a.Follow(was, is)
	switch {
	case err != nil:
		out.Restart, out.Why = true, err.Error()
	case from != to:
		out.From, out.To = from, to
	}
}

// meaning is what a stored config means. One that is not valid means nothing:
// no daemon can have followed it.
func meaning(data []byte) ([]setting, config.Network) {
	n, err := config.Parse(data)
	if err != nil {
		return nil, config.Network{}
	}
	return settingsOf(n), n
}

// created: there was no valid config before.
func (s stored) created() bool {
	return !slices.ContainsFunc(s.Changes, func(c change) bool { return c.Was != "" })
}

func writeStored(w io.Writer, s stored) {
	switch {
	case !s.Stored:
		put(w, "the same config is stored already: nothing was changed\n")
	case len(s.Changes) == 0:
		put(w, "stored; it means the same as before\n")
	default:
		put(w, "stored\n\n")
		rows := [][]string{{"KEY", "WAS", "IS"}}
		for _, c := range s.Changes {
			rows = append(rows, []string{c.Key, c.Was, c.Is})
		}
		table(w, rows)
	}
	switch {
	case s.Restart:
		put(w, "\nRestart flanneld on every host: %s.\n", s.Why)
	case s.To != "":
		put(w, "\nRunning hosts move from %s to %s by themselves. Follow them with flannelctl status;\n"+
			"to go back, store the former config again.\n", s.From, s.To)
	case len(s.Changes) > 0 && !s.created():
		put(w, "\nRunning hosts take this over by themselves.\n")
	}
	lines(w, "warnings", s.Warnings)
}
