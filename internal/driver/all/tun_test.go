package all_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// overTUN is a fabric whose one device is a TUN device: addresses of both
// families, a switch, and routes that name no gateway.
func overTUN(f drivertest.Fabric) *state.Set {
	s := &state.Set{
		Links:   []state.Link{{Name: "flannel0", Type: state.LinkTUN, MTU: 1452}},
		Sysctls: []state.Sysctl{{Path: "net/ipv6/conf/flannel0/accept_ra", Value: "0", Link: "flannel0"}},
	}
	for i, network := range f.Networks() {
		subnet := f.Subnet(addr.Families()[i], 0)
		s.Addresses = append(s.Addresses, state.Address{Link: "flannel0", Prefix: addr.Single(subnet.Addr())})
		s.Routes = append(s.Routes, state.Route{Dst: network, Link: "flannel0"})
	}
	return s
}

// Every driver serves a TUN device as it serves a VXLAN device, whether its
// reader is there or not: without one, the device has no carrier.
func TestOverTUN(t *testing.T) {
	drivertest.Namespace(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
	f := drivertest.FabricOf(1)
	d, want := drivers(f, false), overTUN(f)
	execute(t, d, want)
	done(t, d, want)
	reader := attachTUN(t, "flannel0")
	done(t, d, want)
	for _, fault := range []string{
		"ip addr del 10.16.0.0/32 dev flannel0", "ip addr add 10.16.0.9/32 dev flannel0",
		"ip route del 10.16.0.0/12 dev flannel0", "ip route add 10.16.9.0/24 dev flannel0",
		"ip -6 route del fd00:1::/32 dev flannel0", "ip link set flannel0 down", "sysctl -q net.ipv6.conf.flannel0.accept_ra=2",
	} {
		drivertest.Run(t, fault)
		if changes, err := reconcile.Plan(t.Context(), d, want); err != nil || len(changes) == 0 {
			t.Errorf("%s: not noticed, %v", fault, err)
		}
		execute(t, d, want)
		done(t, d, want)
	}
	if err := unix.Close(reader); err != nil {
		t.Fatal(err)
	}
	done(t, d, want)
	drivertest.Run(t, "ip link del flannel0")
	execute(t, d, want)
	done(t, d, want)
	execute(t, d, &state.Set{})
	if out := drivertest.Output(t, "ip -br link show type tun"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

// What stands on an unmarked device is taken over with it.
func TestAdoptsRoutesOnTUN(t *testing.T) {
	drivertest.Namespace(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs TUN devices: %v", err)
	}
	drivertest.Run(t, `
		ip tuntap add dev flannel0 mode tun user root
		ip link set flannel0 up mtu 1472
		ip addr add 10.16.0.0/32 dev flannel0
		ip route add 10.16.0.0/12 dev flannel0
	`)
	f := drivertest.FabricOf(1)
	d, want := drivers(f, false), overTUN(f)
	execute(t, d, want)
	done(t, d, want)
}

func attachTUN(t *testing.T, name string) (fd int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	return fd
}
