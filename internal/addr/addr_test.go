package addr_test

import (
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

func TestParseMAC(t *testing.T) {
	for in, ok := range map[string]bool{
		"0e:0a:79:98:7f:30": true, "0E:0A:79:98:7F:30": true,
		"": false, "0e:0a:79:98:7f": false, "0e-0a-79-98-7f-30": false, "0e:0a:79:98:7f:3g": false,
		"0e:0a:79:98:7f:30:00": false, "0e0a:79:98:7f:3000": false,
	} {
		m, err := addr.ParseMAC(in)
		if (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		if back, err := addr.ParseMAC(m.String()); ok && (err != nil || back != m) {
			t.Errorf("%q → %s → %s, %v", in, m, back, err)
		}
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("0e:0a:79:98:7f:30")
	f.Add("::::::::::::::::::")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := addr.ParseMAC(s)
		if err != nil {
			return
		}
		if back, err := addr.ParseMAC(m.String()); err != nil || back != m {
			t.Errorf("%q → %s, %v", s, back, err)
		}
	})
}

func TestByFamily(t *testing.T) {
	var b addr.ByFamily[int]
	for i, f := range addr.Families() {
		b.Put(f, i+1)
	}
	if b.At(addr.IPv4) != 1 || b.At(addr.IPv6) != 2 || b != addr.Pair(1, 2) {
		t.Errorf("%v", b)
	}
}

func TestByFamilyForPeople(t *testing.T) {
	ipv4, ipv6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	for want, b := range map[string]addr.ByFamily[netip.Addr]{
		"198.51.100.1,2001:db8::1": addr.Pair(ipv4, ipv6),
		"2001:db8::1":              addr.Pair(netip.Addr{}, ipv6),
		"":                         {},
	} {
		if got := b.LogValue().String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHostAndMulticast(t *testing.T) {
	if a := addr.Host(netip.MustParsePrefix("10.5.255.7/24"), 1); a != netip.MustParseAddr("10.5.255.1") {
		t.Errorf("first host of 10.5.255.7/24 is %s", a)
	}
	if p := addr.IPv4.Multicast(); p != netip.MustParsePrefix("224.0.0.0/4") {
		t.Errorf("IPv4 multicast is %s", p)
	}
	if p := addr.IPv6.Multicast(); p != netip.MustParsePrefix("ff00::/8") {
		t.Errorf("IPv6 multicast is %s", p)
	}
}
