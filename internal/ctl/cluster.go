package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// Cluster works on the store itself, not on what is in it.
type Cluster interface {
	// Members lists the members of the store, sorted by name.
	Members(ctx context.Context) ([]Member, error)
	// Remove takes a member out for good.
	Remove(ctx context.Context, id uint64) error
	// Snapshot saves the content of the store to a file.
	Snapshot(ctx context.Context, file string) (SnapshotInfo, error)
}

// Member is one server of the store.
type Member struct {
	ID        uint64
	Name      string // "" before its first start
	Addresses []string
	State     string // leader, follower, learner, unreachable, …
	Answers   bool
	Voter     bool  // counts for a majority
	DBSize    int64 // bytes
	Err       string
}

// SnapshotInfo is what a snapshot holds.
type SnapshotInfo struct {
	Revision int64
	Keys     int
	Size     int64 // bytes
}

// Restore says what to make of a snapshot.
type Restore struct {
	File, Dir, Name string
	Cluster         []ClusterMember // empty: the one member alone
	TLS, Force      bool
}

// ClusterMember is a member of a restored store.
type ClusterMember struct {
	Name    string
	Address netip.Addr
}

// What a restore refuses.
var (
	// ErrBusy says that a member runs on the data directory.
	ErrBusy = errors.New("a running flanneld or etcd uses it: stop that first, on every host of the store")
	// ErrNotEmpty says that the data directory has something in it.
	ErrNotEmpty = errors.New("it is not empty: --force moves what is there aside")
)

var (
	errNoMember = errors.New("the store has no such member: see flannelctl store members")
	errTwoSuch  = errors.New("several members have this name: give the ID that flannelctl store members shows")
	errLast     = errors.New("it is the only member: with it the store would be gone")
	errMajority = errors.New("the rest would have no majority")
	errNotInIt  = errors.New("--name (default: the host name) is not among --cluster")
)

func (a *app) storeCommand() *cobra.Command {
	cmd := group("store", "Back up, restore and look after the store itself")
	cmd.AddCommand(a.snapshotCommand(), a.restoreCommand(), a.membersCommand(), a.removeMemberCommand())
	return cmd
}

func (a *app) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the members of the store and how each of them is",
		Long: `List the members of the store and how each of them is: leader, follower,
learner (copies the data, and counts later), not started, unreachable. The list
comes from the first of --etcd-endpoints that answers, also without a majority.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd, func(s *Store) error {
				members, err := s.Cluster.Members(cmd.Context())
				if err != nil {
					return err
				}
				views := memberViews(members)
				return a.show(views, func(w io.Writer) { writeMembers(w, views) })
			})
		},
	}
}

// memberView is a member as programs see it.
type memberView struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"` // hexadecimal, as etcdctl has it
	Address []string `json:"addresses"`
	State   string   `json:"state"`
	Voter   bool     `json:"voter"`
	DBSize  int64    `json:"dbSize,omitempty"` // bytes
	Error   string   `json:"error,omitempty"`
}

func memberViews(members []Member) []memberView {
	out := []memberView{} // [] for programs, not null
	for _, m := range members {
		out = append(out, memberView{
			Name: m.Name, ID: hexID(m.ID), Address: m.Addresses, State: m.State,
			Voter: m.Voter, DBSize: m.DBSize, Error: m.Err,
		})
	}
	return out
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

func writeMembers(w io.Writer, members []memberView) {
	rows := [][]string{{"NAME", "ID", "ADDRESS", "STATE", "SIZE"}}
	for _, m := range members {
		state := m.State
		if m.Error != "" {
			state += ": " + oneLine(m.Error)
		}
		size := ""
		if m.DBSize > 0 {
			size = bytesText(m.DBSize)
		}
		rows = append(rows, []string{m.Name, m.ID, strings.Join(m.Address, " "), state, size})
	}
	table(w, rows)
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const kib, mib = 1 << 10, 1 << 20
	if n < mib {
		return strconv.FormatInt((n+kib-1)/kib, 10) + " KiB"
	}
	return strconv.FormatFloat(float64(n)/mib, 'f', 1, 64) + " MiB"
}

func (a *app) removeMemberCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove-member NAME|ID",
		Short: "Take a member out of the store for good, so that another can replace it",
		Long: `Take a member out of the store for good: its host is lost, or shall do other
work. A new one then joins with flanneld --etcd-embedded-join. A removed member
never comes back with its old data.

Refused if the rest would have no majority; --force skips that check, and the
store may refuse all the same.`,
		Args: one("NAME|ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd, func(s *Store) error {
				return a.removeMember(cmd.Context(), s.Cluster, args[0], force)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove it although the rest may have no majority")
	return cmd
}

func (a *app) removeMember(ctx context.Context, c Cluster, which string, force bool) error {
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	m, err := pickMember(members, which)
	if err != nil {
		return err
	}
	if err := quorumWithout(members, m); err != nil && !force {
		return fmt.Errorf("member %s is not removed: %w", which, err)
	}
	if err := c.Remove(ctx, m.ID); err != nil {
		return err
	}
	out := map[string]string{"removed": m.Name, "id": hexID(m.ID)}
	return a.show(out, func(w io.Writer) {
		put(w, "removed member %s (%s)\n", m.Name, hexID(m.ID))
		if m.Answers {
			put(w, "It still runs: stop flanneld there, and move its data directory away before it joins again.\n")
		}
	})
}

func pickMember(members []Member, which string) (Member, error) {
	var found []Member
	for _, m := range members {
		if m.Name == which || hexID(m.ID) == strings.ToLower(which) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return Member{}, fmt.Errorf("%s: %w", which, errNoMember)
	case 1:
		return found[0], nil
	default:
		return Member{}, fmt.Errorf("%s: %w", which, errTwoSuch)
	}
}

// quorumWithout says why the members cannot do without one of them.
func quorumWithout(members []Member, gone Member) error {
	if !gone.Voter {
		return nil
	}
	voters, answering := 0, 0
	for _, m := range members {
		if m.ID == gone.ID || !m.Voter {
			continue
		}
		voters++
		if m.Answers {
			answering++
		}
	}
	switch {
	case voters == 0:
		return errLast
	case answering < voters/2+1:
		return fmt.Errorf("%w: %d of %d answer, %d are needed; bring one back first, or restore a snapshot "+
			"(flannelctl store restore --help); --force skips this check", errMajority, answering, voters, voters/2+1)
	}
	return nil
}

func (a *app) snapshotCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot FILE",
		Short: "Save all that is in the store to a file, while it runs",
		Long: `Save all that is in the store to a file, while it runs. The file comes from the
first of --etcd-endpoints that answers; an older FILE is replaced once the new
one is complete and its hash is right. It is for root alone (mode 0600).`,
		Example: `  flannelctl store snapshot /var/backups/flannel-store.db`,
		Args:    one("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd, func(s *Store) error {
				info, err := s.Cluster.Snapshot(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				out := map[string]any{"file": args[0], "revision": info.Revision, "keys": info.Keys, "size": info.Size}
				return a.show(out, func(w io.Writer) {
					put(w, "saved %s: revision %d, %d keys, %s\n", args[0], info.Revision, info.Keys, bytesText(info.Size))
				})
			})
		},
	}
}

func (a *app) restoreCommand() *cobra.Command {
	r := Restore{}
	var cluster []string
	cmd := &cobra.Command{
		Use:   "restore FILE --dir DIR",
		Short: "Make the data directory of a member from a snapshot, while it does not run",
		Long: `Make the data directory of a member of the store from a snapshot. It works on
files alone: no flanneld that is a member may run. Containers keep their
traffic; what is in the kernel does not depend on the store.

One member alone needs only --dir. Several are restored from the same file, on
each host with its own --name and the same --cluster; they form a new cluster.
The revision of the store jumps ahead, so that every daemon sees that it was
restored; the hosts then keep their leases, or claim them again.`,
		Example: `  systemctl stop flanneld
  flannelctl store restore flannel-store.db --dir /var/lib/flannel/subnet/etcd --force \
    --name h1 --cluster h1=192.0.2.1,h2=192.0.2.2,h3=192.0.2.3
  systemctl start flanneld`,
		Args: one("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			r.File = args[0]
			return a.restore(r, cluster)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Dir, "dir", "", "data directory to make: flanneld's --etcd-embedded-dir")
	flags.StringVar(&r.Name, "name", "", "name of this member (default the host name)")
	flags.StringSliceVar(&cluster, "cluster", nil, "all members, NAME=IP separated by commas (default this one alone)")
	flags.BoolVar(&r.TLS, "tls", false, "the members use TLS (flanneld --etcd-embedded-certfile)")
	flags.BoolVar(&r.Force, "force", false, "move what is in the directory aside, beside it; nothing is deleted")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // there is no such flag: our own mistake
	}
	return cmd
}

func (a *app) restore(r Restore, cluster []string) error {
	var err error
	if r.Dir, err = filepath.Abs(r.Dir); err != nil {
		return err
	}
	if r.Name == "" {
		if r.Name, err = os.Hostname(); err != nil {
			return fmt.Errorf("host name, for --name: %w", err)
		}
	}
	if r.Cluster, err = parseCluster(cluster, r.Name); err != nil {
		return err
	}
	info, aside, err := a.Restore(r)
	if err != nil {
		return fmt.Errorf("restore %s: %w", r.Dir, err)
	}
	out := map[string]any{"dir": r.Dir, "revision": info.Revision, "keys": info.Keys, "aside": aside}
	return a.show(out, func(w io.Writer) {
		put(w, "restored %s from %s: %d keys of revision %d\n", r.Dir, r.File, info.Keys, info.Revision)
		if aside != "" {
			put(w, "what was there is in %s now\n", aside)
		}
		if len(r.Cluster) > 1 {
			put(w, "Do the same on the other hosts, from the same file, before you start flanneld on them.\n")
		}
	})
}

func parseCluster(parts []string, own string) ([]ClusterMember, error) {
	var out []ClusterMember
	for _, p := range parts {
		name, at, _ := strings.Cut(p, "=")
		ip, err := netip.ParseAddr(at)
		if err != nil || name == "" {
			return nil, fmt.Errorf("--cluster %q: must list NAME=IP, as in h1=192.0.2.1,h2=192.0.2.2", p)
		}
		out = append(out, ClusterMember{Name: name, Address: ip})
	}
	if len(out) > 0 && !slices.ContainsFunc(out, func(m ClusterMember) bool { return m.Name == own }) {
		return nil, fmt.Errorf("%w: %s", errNotInIt, own)
	}
	return out, nil
}
