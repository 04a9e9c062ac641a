package ctl

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/control"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the state of this host: lease, store, peers, and what is wrong",
		Long: `Show the state of the flanneld of this host after its last pass.

Exit code 3 means that it runs but is not ready; the reasons are shown.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := control.NewClient(a.socket).Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.show(s, func(w io.Writer) { writeStatus(w, s, a.Now()) }); err != nil {
				return err
			}
			if !s.Ready {
				return exit(ExitNotReady)
			}
			return nil
		},
	}
}

func (a *app) planCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what flanneld would change on this host now, changing nothing",
		Args:  none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := control.NewClient(a.socket).Plan(cmd.Context())
			if err != nil {
				return err
			}
			if plan == nil {
				plan = []report.Change{} // [] for programs, not null
			}
			return a.show(plan, func(w io.Writer) { WritePlan(w, plan) })
		},
	}
}

// WritePlan writes a plan for people; flanneld --dry-run prints the same.
func WritePlan(w io.Writer, plan []report.Change) {
	if len(plan) == 0 {
		put(w, "in sync: nothing to change\n")
		return
	}
	rows := [][]string{{"OP", "OBJECT"}}
	for _, c := range plan {
		rows = append(rows, []string{c.Op, oneLine(c.Object)})
		if c.Was != "" {
			rows = append(rows, []string{"  was", oneLine(c.Was)})
		}
	}
	table(w, rows)
}

var errKind = errors.New("unknown kind of event")

func eventKinds() []string {
	return []string{"change", "repair", "fight", "failure", "ready", "store", "config"}
}

func (a *app) eventsCommand() *cobra.Command {
	var kinds []string
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what flanneld did and met lately on this host, oldest first",
		Args:  none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, k := range kinds {
				if !slices.Contains(eventKinds(), k) {
					return fmt.Errorf("%w %q: there are %s", errKind, k, strings.Join(eventKinds(), ", "))
				}
			}
			all, err := control.NewClient(a.socket).Events(cmd.Context())
			if err != nil {
				return err
			}
			events := []report.Event{}
			for _, e := range all {
				if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
					events = append(events, e)
				}
			}
			return a.show(events, func(w io.Writer) { writeEvents(w, events) })
		},
	}
	c.Flags().StringSliceVar(&kinds, "kind", nil, "only events of these kinds: "+strings.Join(eventKinds(), ", "))
	return c
}

func writeEvents(w io.Writer, events []report.Event) {
	rows := [][]string{{"TIME", "KIND", "EVENT"}}
	for _, e := range events {
		text := oneLine(e.Text)
		if e.Repeat > 0 {
			text += fmt.Sprintf(" (%d times)", e.Repeat+1)
		}
		rows = append(rows, []string{e.At.Format(time.RFC3339), e.Kind, text})
	}
	table(w, rows)
}
