package sysctl_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
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
	d := sysctl.New()
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
	d := sysctl.New()
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
	changes := drivertest.MustPlan(t, sysctl.New(), want)
	if len(changes) != 1 || changes[0].Object != state.Object(want.Sysctls[1]) {
		t.Errorf("want the switch of the link that is still to come, got %v", changes)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := state.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}
	if _, err := sysctl.New().Plan(ctx, &state.Set{Sysctls: []state.Sysctl{s}}); !errors.Is(err, context.Canceled) {
		t.Errorf("plan: %v", err)
	}
	r := sysctl.New().Apply(ctx, []reconcile.Change{{Op: reconcile.Update, Object: s}})
	if !errors.Is(r[0].Err, context.Canceled) {
		t.Errorf("apply: %v", r)
	}
}
