package link_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/kernel"
	"github.com/flannel-ng/flannel-ng/internal/driver/link"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	asForwarder = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	asFlannel   = unix.IFF_TUN | unix.IFF_NO_PI
)

// tunNamespace is a test host that can have TUN devices.
func tunNamespace(t *testing.T) {
	t.Helper()
	drivertest.Namespace(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
}

func tunSet(name string) *state.Set {
	return &state.Set{Links: []state.Link{{Name: name, Type: state.LinkTUN, MTU: 1472}}}
}

// attach opens flannel0, as its reader does; it makes one that is not
// there, for as long as it is open.
func attach(t *testing.T, flags uint16) (fd int, err error) {
	t.Helper()
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	ifr, err := unix.NewIfreq("flannel0")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(flags)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

func TestTUNLikeFlannel(t *testing.T) {
	tunNamespace(t)
	f := drivertest.FabricOf(1)
	d, want := link.New(f.Owner), tunSet("flannel0")
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	for _, reader := range []string{"without a reader", "with a reader"} {
		if reader == "with a reader" {
			if _, err := attach(t, asForwarder); err != nil {
				t.Fatal(err)
			}
		}
		out := drivertest.Output(t, "ip -d link show flannel0")
		for _, text := range []string{
			"POINTOPOINT,MULTICAST,NOARP,UP", "mtu 1472", "link/none", "alias flannel-ng",
			"tun type tun pi off vnet_hdr on persist on user root", "addrgenmode random", "qlen 500",
		} {
			if reader == "without a reader" && text == "addrgenmode random" {
				continue // chosen when the first reader comes
			}
			if !strings.Contains(out, text) {
				t.Errorf("%s: no %q in\n%s", reader, text, out)
			}
		}
		drivertest.MustBeDone(t, d, want)
	}
	if !strings.Contains(drivertest.Output(t, "ip -6 route show dev flannel0"), "fe80::/64") {
		t.Error("no link-local address")
	}
}

// What is stolen comes back; the reader stays if its device does.
func TestTUNStolen(t *testing.T) {
	for command, kept := range map[string]bool{
		"ip link del flannel0":                    false,
		"ip link set flannel0 down":               true,
		"ip link set flannel0 mtu 1300":           true,
		"ip link set flannel0 alias ":             true,
		"ip link set flannel0 name flannel-moved": false,
	} {
		t.Run(command, func(t *testing.T) {
			tunNamespace(t)
			f := drivertest.FabricOf(1)
			d, want := link.New(f.Owner), tunSet("flannel0")
			drivertest.MustApply(t, d, want)
			if _, err := attach(t, asForwarder); err != nil {
				t.Fatal(err)
			}
			words := strings.Split(command, " ")
			if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
			if len(drivertest.MustPlan(t, d, want)) == 0 {
				t.Error("not noticed")
			}
			drivertest.MustApply(t, d, want)
			drivertest.MustBeDone(t, d, want)
			out := drivertest.Output(t, "ip -d link show type tun")
			if got := strings.Contains(out, "LOWER_UP"); got != kept {
				t.Errorf("reader kept: %v, want %v\n%s", got, kept, out)
			}
		})
	}
}

// A device of ours in a shape that cannot be mended is made anew.
func TestTUNAnew(t *testing.T) {
	for name, script := range map[string]string{
		"tap":             "ip tuntap add dev flannel0 mode tap",
		"multi-queue":     "ip tuntap add dev flannel0 mode tun multi_queue user root",
		"open to a user":  "ip tuntap add dev flannel0 mode tun user 1000",
		"open to all":     "ip tuntap add dev flannel0 mode tun",
		"another type":    "ip link add flannel0 type bridge",
		"open to a group": "ip tuntap add dev flannel0 mode tun user root group 1000",
	} {
		t.Run(name, func(t *testing.T) {
			tunNamespace(t)
			drivertest.Run(t, script)
			drivertest.Run(t, "ip link set flannel0 alias flannel-ng")
			f := drivertest.FabricOf(1)
			d, want := link.New(f.Owner), tunSet("flannel0")
			drivertest.MustApply(t, d, want)
			drivertest.MustBeDone(t, d, want)
			if out := drivertest.Output(t, "ip -d link show flannel0"); !strings.Contains(out, "tun type tun pi off vnet_hdr on persist on user root addrgenmode") {
				t.Error(out)
			}
		})
	}
}

// Transient devices of ours go too: somebody took the persistence away.
func TestTUNTransientOfOurs(t *testing.T) {
	tunNamespace(t)
	f := drivertest.FabricOf(1)
	d, want := link.New(f.Owner), tunSet("flannel0")
	drivertest.MustApply(t, d, want)
	fd, err := attach(t, asForwarder)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		t.Fatal(err)
	}
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	if out := drivertest.Output(t, "ip -d link show flannel0"); !strings.Contains(out, "persist on") {
		t.Error(out)
	}
}

// A persistent device that nobody marked is taken over as it is.
func TestTUNAdopted(t *testing.T) {
	tunNamespace(t)
	drivertest.Run(t, "ip tuntap add dev flannel0 mode tun user root")
	before := index(t, "flannel0")
	f := drivertest.FabricOf(1)
	d, want := link.New(f.Owner), tunSet("flannel0")
	drivertest.MustApply(t, d, want)
	drivertest.MustBeDone(t, d, want)
	if after := index(t, "flannel0"); after != before {
		t.Errorf("index %d became %d", before, after)
	}
}

func index(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}

func TestTUNForeignIsRefused(t *testing.T) {
	for name, script := range map[string]string{
		"another instance": "ip tuntap add dev flannel0 mode tun user root\nip link set flannel0 alias flannel-ng-123456",
		"another's alias":  "ip tuntap add dev flannel0 mode tun user root\nip link set flannel0 alias mine",
		"tap":              "ip tuntap add dev flannel0 mode tap user root",
		"multi-queue":      "ip tuntap add dev flannel0 mode tun multi_queue user root",
		"another type":     "ip link add flannel0 type bridge",
		"running flannel":  "",
	} {
		t.Run(name, func(t *testing.T) {
			tunNamespace(t)
			drivertest.Run(t, script)
			if script == "" {
				if _, err := attach(t, asFlannel); err != nil {
					t.Fatal(err)
				}
			}
			before := drivertest.Output(t, "ip -d link show")
			f := drivertest.FabricOf(1)
			failed := drivertest.Apply(t, link.New(f.Owner), tunSet("flannel0"))
			if len(failed) != 1 || !errors.Is(failed[0].Err, kernel.ErrForeign) {
				t.Fatalf("want a refusal, got %v", failed)
			}
			if script == "" && (!errors.Is(failed[0].Err, unix.EBUSY) || !strings.Contains(failed[0].Err.Error(), "stop flannel first")) {
				t.Errorf("no cure in: %v", failed[0].Err)
			}
			if after := drivertest.Output(t, "ip -d link show"); after != before {
				t.Errorf("touched:\n%s\n%s", before, after)
			}
		})
	}
}

func TestTUNOwnersLeaveEachOtherAlone(t *testing.T) {
	tunNamespace(t)
	before := drivertest.Output(t, "ip -br link show")
	one, two := drivertest.FabricOf(1), drivertest.FabricOf(2)
	d1, d2 := link.New(one.Owner), link.New(two.Owner)
	drivertest.MustApply(t, d1, tunSet("flannel0"))
	drivertest.MustApply(t, d2, tunSet("flannel-2"))
	drivertest.MustBeDone(t, d1, tunSet("flannel0"))
	drivertest.MustApply(t, d1, &state.Set{})
	drivertest.MustBeDone(t, d2, tunSet("flannel-2"))
	for _, r := range drivertest.Apply(t, d1, tunSet("flannel-2")) {
		if r.Op != reconcile.Remove && r.Err == nil {
			t.Errorf("touched what is another's: %s %s", r.Op, r.Object)
		}
	}
	drivertest.MustBeDone(t, d2, tunSet("flannel-2"))
	drivertest.MustApply(t, d2, &state.Set{})
	if after := drivertest.Output(t, "ip -br link show"); after != before {
		t.Errorf("foreign links changed:\n%s\n%s", before, after)
	}
}

// Nobody but root reads or forges what passes the device, even while no
// forwarder is attached.
func TestTUNClosedToOthers(t *testing.T) {
	tunNamespace(t)
	f := drivertest.FabricOf(1)
	drivertest.MustApply(t, link.New(f.Owner), tunSet("flannel0"))
	// Opened by root, so that the mode of /dev/net/tun does not decide; the
	// kernel looks at who attaches. The thread ends with the test.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
		t.Fatal(errno)
	}
	ifr, err := unix.NewIfreq("flannel0")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(asForwarder)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); !errors.Is(err, unix.EPERM) {
		t.Errorf("attach as nobody: %v, want %v", err, unix.EPERM)
	}
}
