package ctl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/control"
	"github.com/flannel-ng/flannel-ng/internal/ctl"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"flannelctl": func() { os.Exit(ctl.Run(context.Background(), testEnv(), os.Args[1:])) },
	})
}

// testEnv is the world of the scripts: the time stands still, the store and
// the table of routes are files in the current directory.
func testEnv() ctl.Env {
	return ctl.Env{
		Version: "v9.9.9",
		Now:     func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		Environ: os.Environ(),
		Stdin:   os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Dial:         dialFile,
		Restore:      restoreFile,
		Cleanup:      cleanupFile,
		CheckBackend: checkBackend,
		Follow:       follow,
		RouteTable:   "routes",
	}
}

// cleanupFile says the lines of the file "remains", and what it was asked.
func cleanupFile(ctx context.Context, c ctl.Cleanup) (ctl.CleanupReport, error) {
	var r struct {
		ctl.CleanupReport
		Refuse string
		Lines  []ctl.CleanupLine
	}
	raw, err := os.ReadFile("remains")
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err == nil && r.Refuse != "" {
		err = errors.New(r.Refuse)
	}
	if err != nil {
		return r.CleanupReport, err
	}
	for _, l := range r.Lines {
		c.Say(l)
	}
	c.Say(ctl.CleanupLine{Act: "left", Object: fmt.Sprintf("%s %q %q %v keep %t %t allow %t", c.SubnetFile, c.StateDir, c.ControlSocket,
		c.Networks, c.KeepState, c.KeepForwarding, c.AllowExtension)})
	if c.Release != nil {
		released, reserved, err := c.Release(ctx, "host1")
		c.Say(ctl.CleanupLine{Act: "released", Object: fmt.Sprint(released, reserved, err)})
	}
	return r.CleanupReport, nil
}

// follow needs a restart for another network.
func follow(was, is config.Network) (from, to string, err error) {
	if was.Pools != is.Pools {
		return "", "", errors.New("the networks differ")
	}
	return was.Backend.Type + " there", is.Backend.Type + " there", nil
}

// checkBackend knows one backend with one rule and one doubt.
func checkBackend(n config.Network) ([]string, error) {
	if n.Backend.Type != "vxlan" && n.Backend.Type != "wireguard" {
		return nil, fmt.Errorf("Backend.Type %q: must be vxlan or wireguard", n.Backend.Type)
	}
	var o struct {
		VNI int    `default:"1" range:"1..16777215"`
		PSK string `doc:"secret"`
	}
	return n.Backend.Decode(&o)
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"daemon": daemon,
		},
		Setup: func(e *testscript.Env) error {
			scripts, err := filepath.Abs("../../scripts")
			e.Setenv("SCRIPTS", scripts)
			return err
		},
	})
}

// canned is a daemon that answers from JSON files of the script.
type canned struct {
	status report.Status
	plan   []report.Change
	events []report.Event
}

func (c canned) Status() report.Status                         { return c.status }
func (c canned) Plan(context.Context) ([]report.Change, error) { return c.plan, nil }
func (c canned) Events() []report.Event                        { return c.events }

// daemon SOCKET starts a daemon that tells status.json, plan.json and
// events.json, as far as they exist.
func daemon(ts *testscript.TestScript, _ bool, args []string) {
	var c canned
	for name, into := range map[string]any{"status.json": &c.status, "plan.json": &c.plan, "events.json": &c.events} {
		data, err := os.ReadFile(ts.MkAbs(name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		ts.Check(err)
		ts.Check(json.Unmarshal(data, into))
	}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := control.Listen(ctx, ts.MkAbs(args[0]))
	ts.Check(err)
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, c, slog.New(slog.DiscardHandler)) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
}

// fileStore is a store in store.json.
type fileStore struct {
	Config *string
	Rev    int64
	Silent bool        // etcd does not answer
	Racing bool        // somebody else writes between every Get and Set
	Table  []fileLease `json:"Leases"`
	Peers  []ctl.Member
}

type fileLease struct {
	Key, Backend, Owner string
	Subnets             []netip.Prefix
	Public              []netip.Addr
	Reserved, Alive     bool
	TTL                 string
	Rev                 int64
}

const storeFile = "store.json"

func dialFile(_ context.Context, o ctl.StoreOptions) (*ctl.Store, error) {
	s := &fileStore{}
	data, err := os.ReadFile(storeFile)
	if err != nil {
		return nil, fmt.Errorf("etcd %v: %w", o.Endpoints, err)
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, err
	}
	dialed, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return &ctl.Store{Admin: s, Configs: fileConfigs{s}, Cluster: fileCluster{s}, Close: func() error {
		data, err := json.MarshalIndent(s, "", " ")
		return errors.Join(err, os.WriteFile(storeFile, data, 0o600), os.WriteFile("dialed.json", append(dialed, '\n'), 0o600))
	}}, nil
}

func (s *fileStore) Leases(context.Context) ([]ctl.Lease, error) {
	if s.Silent {
		return nil, fmt.Errorf("list leases: %w", context.DeadlineExceeded)
	}
	var out []ctl.Lease
	for _, f := range s.Table {
		l := ctl.Lease{Lease: lease.Lease{
			Key: f.Key, Owner: f.Owner, Reserved: f.Reserved, Modified: f.Rev, Offer: lease.Offer{Backend: f.Backend},
		}, Alive: f.Alive}
		for _, p := range f.Subnets {
			l.Subnets.Put(addr.Of(p.Addr()), p)
		}
		for _, ip := range f.Public {
			l.Public.Put(addr.Of(ip), ip)
		}
		if !f.Reserved {
			ttl, err := time.ParseDuration(f.TTL)
			if err != nil {
				return nil, err
			}
			l.TTL = ttl
		}
		out = append(out, l)
	}
	return out, nil
}

func (s *fileStore) Reserve(_ context.Context, subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) error {
	s.Rev++
	l := fileLease{Reserved: true, Rev: s.Rev}
	for _, f := range addr.Families() {
		if p := subnets.At(f); p.IsValid() {
			l.Subnets = append(l.Subnets, p)
			l.Public = append(l.Public, public.At(f))
		}
	}
	l.Key = fmt.Sprint(l.Subnets)
	for _, other := range s.Table {
		if slices.ContainsFunc(other.Subnets, l.Subnets[0].Overlaps) {
			return fmt.Errorf("reserve %s: %w by %s", l.Key, lease.ErrTaken, other.Key)
		}
	}
	s.Table = append(s.Table, l)
	return nil
}

func (s *fileStore) Release(_ context.Context, key string, force bool) error {
	i := slices.IndexFunc(s.Table, func(l fileLease) bool { return l.Key == key })
	if s.Table[i].Alive && !force {
		return fmt.Errorf("release %s: %w", key, ctl.ErrAlive)
	}
	s.Table = slices.Delete(s.Table, i, i+1)
	return nil
}

type fileConfigs struct{ *fileStore }

func (s fileConfigs) Get(context.Context) ([]byte, int64, error) {
	if s.Config == nil {
		return nil, 0, nil
	}
	return []byte(*s.Config), s.Rev, nil
}

func (s fileConfigs) Set(_ context.Context, data []byte, rev int64) error {
	if s.Racing || s.Config == nil && rev != 0 || s.Config != nil && rev != s.Rev {
		return ctl.ErrChanged
	}
	text := string(data)
	s.Config, s.Rev = &text, s.Rev+1
	return nil
}

// fileCluster has its members in the file, and saves a snapshot of nothing.
type fileCluster struct{ *fileStore }

func (s fileCluster) Members(context.Context) ([]ctl.Member, error) { return s.Peers, nil }

func (s fileCluster) Remove(_ context.Context, id uint64) error {
	s.Peers = slices.DeleteFunc(s.Peers, func(m ctl.Member) bool { return m.ID == id })
	return nil
}

func (s fileCluster) Snapshot(_ context.Context, file string) (ctl.SnapshotInfo, error) {
	return ctl.SnapshotInfo{Revision: s.Rev, Keys: len(s.Table), Size: 20<<10 + 1}, os.WriteFile(file, nil, 0o600)
}

// restoreFile writes what it was asked for to restored.json.
func restoreFile(r ctl.Restore) (ctl.SnapshotInfo, string, error) {
	switch filepath.Base(r.Dir) {
	case "busy":
		return ctl.SnapshotInfo{}, "", ctl.ErrBusy
	case "full":
		if !r.Force {
			return ctl.SnapshotInfo{}, "", ctl.ErrNotEmpty
		}
	}
	r.Dir = filepath.Base(r.Dir)
	asked, err := json.Marshal(r)
	aside := ""
	if r.Force {
		aside = "full.until-then"
	}
	return ctl.SnapshotInfo{Revision: 42, Keys: 7}, aside, errors.Join(err, os.WriteFile("restored.json", append(asked, '\n'), 0o600))
}
