package sysctl_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/sysctl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func TestSwitches(t *testing.T) {
	drivertest.Namespace(t)
	want := &state.Set{Sysctls: []state.Sysctl{
		{Path: "net/ipv4/conf/eth0/forwarding", Value: "1", Link: "eth0"},
		{Path: "net/ipv6/conf/eth0/accept_ra", Value: "2", Link: "eth0"},
		{Path: "net/ipv4/ip_local_port_range", Value: "20000 30000"},
		{Path: "net/ipv4/conf/eth0/of_another_kernel", Value: "1", Optional: true},
		{Path: "net/of_another_kernel/conf/eth0/accept_ra", Value: "0", Link: "eth0", Optional: true},
	}}
	d := sysctl.New(sysctl.Options{})
	if n := len(drivertest.MustPlan(t, d, want)); n != 3 {
		t.Errorf("want three switches to set, not %d", n)
	}
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/eth0/accept_ra"); string(b) != "2\n" {
		t.Errorf("accept_ra is %q, %v", b, err)
	}
	drivertest.Run(t, "sysctl -qw net.ipv4.conf.eth0.forwarding=0")
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	// No longer wanted is no reason to set it back.
	drivertest.MustBeDone(t, d, &state.Set{})
}

func TestMissingSwitchFailsAlone(t *testing.T) {
	drivertest.Namespace(t)
	want := &state.Set{Sysctls: []state.Sysctl{
		{Path: "net/ipv4/conf/missing0/forwarding", Value: "1", Link: "missing0"},
		{Path: "net/ipv4/conf/eth0/forwarding", Value: "1", Link: "eth0"},
		{Path: "net/ipv4/conf/missing0/rp_filter", Value: "0", Link: "missing0", Optional: true},
	}}
	d := sysctl.New(sysctl.Options{})
	failed := drivertest.Apply(t, d, want)
	if len(failed) != 1 || !errors.Is(failed[0].Err, fs.ErrNotExist) {
		t.Errorf("want one missing switch, got %v", failed)
	}
	if left := drivertest.MustPlan(t, d, &state.Set{Sysctls: want.Sysctls[1:2]}); len(left) != 0 {
		t.Errorf("the other one was not set: %v", left)
	}
}

// An MTU that is too small for IPv6 takes the link's IPv6 switches away.
func TestLinkWithoutIPv6IsNotWaitedFor(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, "ip link set eth0 mtu 1200")
	want := &state.Set{Sysctls: []state.Sysctl{
		{Path: "net/ipv6/conf/eth0/accept_ra", Value: "0", Link: "eth0", Optional: true},
		{Path: "net/ipv6/conf/missing0/accept_ra", Value: "0", Link: "missing0", Optional: true},
	}}
	changes := drivertest.MustPlan(t, sysctl.New(sysctl.Options{}), want)
	if len(changes) != 1 || changes[0].Object != state.Object(want.Sysctls[1]) {
		t.Errorf("want the switch of the link that is still to come, got %v", changes)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := state.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}
	if _, err := sysctl.New(sysctl.Options{}).Plan(ctx, &state.Set{Sysctls: []state.Sysctl{s}}); !errors.Is(err, context.Canceled) {
		t.Errorf("plan: %v", err)
	}
	r := sysctl.New(sysctl.Options{}).Apply(ctx, []reconcile.Change{{Op: reconcile.Update, Object: s}})
	if !errors.Is(r[0].Err, context.Canceled) {
		t.Errorf("apply: %v", r)
	}
}

func value(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

const (
	per        = "net/ipv4/conf/eth0/forwarding"
	learn      = "net/ipv6/conf/eth0/accept_ra"
	all6, one6 = "net/ipv6/conf/all/forwarding", "net/ipv6/conf/eth0/forwarding"
)

func switches() *state.Set {
	return &state.Set{Sysctls: []state.Sysctl{
		{Path: per, Value: "1", Link: "eth0"},
		{Path: learn, Value: "2", Link: "eth0"},
		{Path: all6, Value: "1"},
	}}
}

// A cleanup sets back what was set, whatever restarts were between, and the
// switches that one of them sets along.
func TestRestore(t *testing.T) {
	for name, c := range map[string]struct {
		before, between string
		want            map[string]string
		kept            int
	}{
		"all":              {want: map[string]string{per: "0", learn: "1", all6: "0", one6: "0"}},
		"set before us":    {before: per + "=1", want: map[string]string{per: "1", all6: "0"}},
		"one of many":      {before: one6 + "=1", want: map[string]string{one6: "1", all6: "0"}},
		"changed by other": {between: learn + "=0", want: map[string]string{learn: "0", per: "0"}, kept: 1},
		"link is gone":     {between: "", want: map[string]string{all6: "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			drivertest.Namespace(t)
			drivertest.Run(t, "sysctl -qw net/ipv6/conf/all/forwarding=0 "+per+"=0 "+learn+"=1 "+c.before)
			o := sysctl.Options{Record: filepath.Join(t.TempDir(), "new", "switches.json")}
			drivertest.MustApply(t, sysctl.New(o), switches())
			drivertest.MustBeDone(t, sysctl.New(o), switches())
			drivertest.Run(t, "sysctl -qw net/ipv6/conf/all/forwarding=0") // somebody undoes us
			drivertest.MustApply(t, sysctl.New(o), switches())
			if c.between != "" {
				drivertest.Run(t, "sysctl -qw "+c.between)
			}
			if name == "link is gone" {
				drivertest.Run(t, "ip link del eth0")
			}
			kept, err := sysctl.Keeps(o.Record, o.Owner)
			if err != nil || len(kept) != c.kept {
				t.Errorf("kept: %q, %v", kept, err)
			}
			o.Restore = true
			drivertest.MustApply(t, sysctl.New(o), &state.Set{})
			for p, want := range c.want {
				if got := value(t, p); got != want {
					t.Errorf("%s is %s, not %s", p, got, want)
				}
			}
			drivertest.MustBeDone(t, sysctl.New(o), &state.Set{})
			if err := sysctl.Forget(o.Record, o.Owner); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(o.Record); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the record is still there: %v", err)
			}
		})
	}
}

// What two daemons want goes with the second one's cleanup.
func TestRestoreIsTheLastOnes(t *testing.T) {
	drivertest.Namespace(t)
	drivertest.Run(t, "sysctl -qw "+per+"=0")
	want := &state.Set{Sysctls: switches().Sysctls[:1]}
	record := filepath.Join(t.TempDir(), "switches.json")
	a := sysctl.Options{Record: record}
	b := sysctl.Options{Record: record, Owner: state.Owner{Instance: "abcdef"}}
	for _, o := range []sysctl.Options{a, b} {
		drivertest.MustApply(t, sysctl.New(o), want)
		drivertest.MustBeDone(t, sysctl.New(o), want)
	}
	for i, o := range []sysctl.Options{a, b} {
		o.Restore = true
		drivertest.MustApply(t, sysctl.New(o), &state.Set{})
		if err := sysctl.Forget(record, o.Owner); err != nil {
			t.Fatal(err)
		}
		if got, want := value(t, per), []string{"1", "0"}[i]; got != want {
			t.Errorf("after cleanup %d it is %s, not %s", i+1, got, want)
		}
	}
}

// What another boot or a future version noted, or nobody, is not set back.
func TestRecordIsNotBelieved(t *testing.T) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	const form = `{"version":%d,"boot":"%s","switches":[{"path":"` + per + `","before":"0","set":"1","users":["flannel-ng"]}]}`
	for text, restores := range map[string]bool{
		fmt.Sprintf(form, 1, strings.TrimSpace(string(boot))): true,
		fmt.Sprintf(form, 2, strings.TrimSpace(string(boot))): false,
		fmt.Sprintf(form, 1, "another"):                       false,
		"{":                                                   false,
	} {
		t.Run("", func(t *testing.T) {
			drivertest.Namespace(t)
			drivertest.Run(t, "sysctl -qw "+per+"=1")
			o := sysctl.Options{Record: filepath.Join(t.TempDir(), "switches.json"), Restore: true}
			if err := os.WriteFile(o.Record, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if n := len(drivertest.MustPlan(t, sysctl.New(o), &state.Set{})); (n == 1) != restores {
				t.Errorf("%s: %d changes", text, n)
			}
		})
	}
}
