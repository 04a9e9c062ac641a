package nl_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/nl"
)

func attribute(typ uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
	return append(b, make([]byte, (4-len(data)%4)%4)...)
}

// FuzzDecodeLinkData reads what devices of each kind tell of themselves.
func FuzzDecodeLinkData(f *testing.F) {
	f.Add("tun", append(attribute(unix.IFLA_TUN_OWNER, []byte{0, 0, 0, 0}), attribute(unix.IFLA_TUN_PERSIST, []byte{1})...))
	f.Add("vxlan", append(attribute(unix.IFLA_VXLAN_GBP, nil), attribute(unix.IFLA_VXLAN_LOCAL, []byte{192, 0, 2, 1})...))
	f.Fuzz(func(_ *testing.T, kind string, data []byte) {
		if len(kind) > 100 || len(data) > 1000 {
			return
		}
		info := append(attribute(unix.IFLA_INFO_KIND, append([]byte(kind), 0)), attribute(unix.IFLA_INFO_DATA, data)...)
		b := message(unix.RTM_NEWLINK, 0, 1, 0)
		b = append(append(b, make([]byte, 12)...), attribute(unix.IFLA_LINKINFO, info)...)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		_ = nl.DecodeAll(b)
	})
}

func TestLinkTellsItsModes(t *testing.T) {
	drivertest.Namespace(t)
	c := dial(t)
	for name, test := range map[string]struct {
		script string
		vxlan  nl.VXLAN
		tun    nl.TUN
	}{
		"gbp":         {script: "ip link add x0 type vxlan id 3 dstport 9 nolearning udpcsum gbp", vxlan: nl.VXLAN{VNI: 3, Port: 9, GBP: true, UDPCsum: true}},
		"learning":    {script: "ip link add x0 type vxlan id 3 dstport 9 learning udpcsum", vxlan: nl.VXLAN{VNI: 3, Port: 9, Learning: true, UDPCsum: true}},
		"gpe":         {script: "ip link add x0 type vxlan dstport 9 nolearning udpcsum external gpe", vxlan: nl.VXLAN{Port: 9, Special: true, UDPCsum: true}},
		"tun":         {script: "ip tuntap add dev x0 mode tun user root"},
		"tap":         {script: "ip tuntap add dev x0 mode tap user root", tun: nl.TUN{Tap: true}},
		"multi-queue": {script: "ip tuntap add dev x0 mode tun multi_queue user root", tun: nl.TUN{MultiQueue: true}},
		"no owner":    {script: "ip tuntap add dev x0 mode tun", tun: nl.TUN{Open: true}},
		"a group":     {script: "ip tuntap add dev x0 mode tun user root group 7", tun: nl.TUN{Open: true}},
		"neither":     {script: "ip link add x0 type bridge"},
	} {
		drivertest.Run(t, test.script)
		l, err := c.LinkNamed(t.Context(), "x0")
		if err != nil || l.VXLAN != test.vxlan || l.TUN != test.tun {
			t.Errorf("%s: %+v, %+v, %v", name, l.VXLAN, l.TUN, err)
		}
		drivertest.Run(t, "ip link del x0")
	}
}

func TestAddTUN(t *testing.T) {
	drivertest.Namespace(t)
	c := dial(t)
	switch err := nl.AddTUN("x0"); {
	case errors.Is(err, nl.ErrNoTUN):
		t.Skipf("needs TUN devices: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	l, err := c.LinkNamed(t.Context(), "x0")
	if err != nil || l.Kind != "tun" || l.TUN != (nl.TUN{}) || l.Up || l.MAC.String() != "00:00:00:00:00:00" {
		t.Errorf("%+v, %v", l, err)
	}
	if err := nl.AddTUN("x0"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second one: %v, want %v", err, unix.EBUSY)
	}
	if err := nl.AddTUN("foreign0"); err == nil {
		t.Error("made a TUN device of another one's name")
	}
	if err := nl.AddTUN(strings.Repeat("x", unix.IFNAMSIZ)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a name that is too long: %v", err)
	}
}

// What to do is part of the error.
func TestNoTUNDriver(t *testing.T) {
	drivertest.Namespace(t)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("needs a mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Skipf("needs /dev/net: %v", err)
	}
	err := nl.AddTUN("x0")
	if !errors.Is(err, nl.ErrNoTUN) || !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "modprobe tun") {
		t.Errorf("got %v", err)
	}
}

func TestTxChecksum(t *testing.T) {
	drivertest.Namespace(t)
	for _, want := range []bool{true, false, false, true} {
		if err := nl.SetTxChecksum("fvx", want); err != nil {
			t.Fatal(err)
		}
		if on, err := nl.TxChecksum("fvx"); err != nil || on != want {
			t.Errorf("%v, %v, want %v", on, err, want)
		}
	}
	if _, err := nl.TxChecksum("missing0"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("missing link: %v", err)
	}
	if err := nl.SetTxChecksum(strings.Repeat("x", unix.IFNAMSIZ), true); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a name that is too long: %v", err)
	}
}
