package bpf_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/bpf"
)

// pins is a bpf file system of the test's own.
func pins(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads programs into the kernel")
	}
	root := t.TempDir()
	if err := unix.Mount("bpf", root, "bpf", 0, "mode=0700"); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN: mount a bpf file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	return filepath.Join(root, "path")
}

func load(t *testing.T, dir string) *bpf.Path {
	t.Helper()
	p, err := bpf.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// The kernel's verifier takes every program, and what is written is read back.
func TestLoad(t *testing.T) {
	dir := pins(t)
	if err := bpf.Try(); err != nil {
		t.Fatal(err)
	}
	if _, err := bpf.Open(dir); !errors.Is(err, bpf.ErrNone) {
		t.Fatalf("before: %v, want ErrNone", err)
	}
	p := load(t, dir)
	for _, h := range bpf.Hooks() {
		if _, err := os.Stat(filepath.Join(dir, string(h)+"-"+bpf.Version())); err != nil {
			t.Errorf("program not pinned: %v", err)
		}
		if a, err := p.Attached(h); err != nil || a != (bpf.Attachment{}) {
			t.Errorf("%s: %+v, %v; want nowhere", h, a, err)
		}
	}
	want := bpf.Settings{
		Uplink: 2, Tunnel: 3, Source: netip.MustParseAddr("198.51.100.7"), Local: netip.MustParsePrefix("10.5.64.0/20"),
		Port: 8285, Decap: 40001,
	}
	if err := p.SetSettings(want); err != nil {
		t.Fatal(err)
	}
	again := load(t, dir)
	if got, err := again.Settings(); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if c, err := again.Counters(); err != nil || c != (bpf.Counters{}) {
		t.Errorf("%+v, %v; want nothing", c, err)
	}
	if stale, err := again.Stale(); err != nil || stale {
		t.Errorf("stale %v, %v", stale, err)
	}
	if err := bpf.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("pins left: %v", err)
	}
}

func TestPeers(t *testing.T) {
	p := load(t, pins(t))
	want := []bpf.Peer{
		{Subnet: netip.MustParsePrefix("10.5.1.0/24"), Dst: netip.MustParseAddr("198.51.100.1")},
		{Subnet: netip.MustParsePrefix("10.5.2.0/28"), Dst: netip.MustParseAddr("198.51.100.2")},
	}
	if n, err := p.Put(want); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	bad := []bpf.Peer{want[0], {Subnet: netip.MustParsePrefix("fc00::/64"), Dst: netip.MustParseAddr("2001:db8::1")}}
	if _, err := p.Put(bad); err == nil {
		t.Error("an IPv6 peer was taken")
	}
	got, err := p.Peers()
	slices.SortFunc(got, func(a, b bpf.Peer) int { return a.Subnet.Addr().Compare(b.Subnet.Addr()) })
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	exact := []netip.Prefix{want[1].Subnet, netip.MustParsePrefix("10.5.2.0/29"), netip.MustParsePrefix("10.9.0.0/24")}
	if got, err := p.Lookup(exact); err != nil || !slices.Equal(got, want[1:]) {
		t.Errorf("%v, %v; want the second alone", got, err)
	}
	if err := p.Delete(exact); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Peers(); err != nil || !slices.Equal(got, want[:1]) {
		t.Errorf("%v, %v; want the first alone", got, err)
	}
}
