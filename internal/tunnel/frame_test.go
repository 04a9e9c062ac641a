package tunnel_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

func TestFrames(t *testing.T) {
	r := tunnel.Request{Do: "change", Change: &tunnel.Change{
		Config: &tunnel.Config{
			Link: "flannel0", Port: 8285,
			Source: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Local: []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24")},
		},
		Put:    []tunnel.Peer{{Subnet: netip.MustParsePrefix("fd00:5::/64"), Dst: netip.MustParseAddr("2001:db8::2")}},
		Remove: []netip.Prefix{netip.MustParsePrefix("10.5.2.0/24")},
	}}
	var b bytes.Buffer
	for range 2 {
		if err := tunnel.WriteFrame(&b, r); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		var got tunnel.Request
		if err := tunnel.ReadFrame(&b, &got); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("read %+v, %v; wrote %+v", got, err, r)
		}
	}
	if err := tunnel.ReadFrame(&b, &tunnel.Request{}); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last frame: %v", err)
	}
}

// The prelude in letters: no version may change them.
func TestPrelude(t *testing.T) {
	for _, text := range []string{`{"do":"hello"}`, `{"do":"handover"}`, `{"do":"quit"}`} {
		want := string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text
		var r tunnel.Request
		if err := tunnel.ReadFrame(strings.NewReader(want), &r); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := tunnel.WriteFrame(&b, r); err != nil || b.String() != want {
			t.Errorf("%q, %v; want %q", b.String(), err, want)
		}
	}
	var b bytes.Buffer
	a := tunnel.Answer{
		Hello: &tunnel.Hello{Version: 1, Build: "v1", PID: 7}, Roles: []tunnel.Role{tunnel.RoleTUN, tunnel.RoleUDP},
		Status: &tunnel.Status{Counters: tunnel.Counters{Dropped: map[tunnel.Reason]uint64{}}},
	}
	if err := tunnel.WriteFrame(&b, a); err != nil {
		t.Fatal(err)
	}
	const want = `{"hello":{"version":1,"build":"v1","pid":7},` +
		`"status":{"version":0,"build":"","pid":0,"peers":null,"counters":{"sentPackets":0,"sentBytes":0,"receivedPackets":0,"receivedBytes":0,"dropped":{}}},` +
		`"roles":["tun","udp"]}`
	if got := b.String()[4:]; got != want {
		t.Errorf("answer to handover\n%s\nwant\n%s", got, want)
	}
}

func TestBadFrames(t *testing.T) {
	head := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"nothing":       {"", io.EOF},
		"half a length": {"\x00\x00", io.ErrUnexpectedEOF},
		"no body":       {head(2), io.ErrUnexpectedEOF},
		"half a body":   {head(3) + "{}", io.ErrUnexpectedEOF},
		"too long":      {head(tunnel.MaxFrame+1) + "{}", tunnel.ErrFrame},
		"empty":         {head(0), tunnel.ErrFrame},
		"no JSON":       {head(2) + "{x", tunnel.ErrFrame},
		"two values":    {head(4) + "{}{}", tunnel.ErrFrame},
		"of others":     {"GET / HTTP/1.1\r\n", tunnel.ErrFrame},
	} {
		if err := tunnel.ReadFrame(strings.NewReader(c.in), &tunnel.Request{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := tunnel.WriteFrame(io.Discard, strings.Repeat("x", tunnel.MaxFrame)); !errors.Is(err, tunnel.ErrFrame) {
		t.Errorf("written too long: %v", err)
	}
}

// Whatever comes is refused or can be said again with the same meaning.
func FuzzFrame(f *testing.F) {
	for _, text := range []string{
		`{"do":"hello"}`, `{"error":"x","roles":["tun"]}`, `{"status":{"counters":{"dropped":{"x":1}}}}`,
		`{"do":"change","change":{"put":[{"subnet":"10.5.0.0/24","dst":"192.0.2.1"}],"remove":["fd00::/8"]}}`,
	} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Fuzz(func(t *testing.T, in []byte) {
		again(t, in, new(tunnel.Request), new(tunnel.Request))
		again(t, in, new(tunnel.Answer), new(tunnel.Answer))
	})
}

func again[T any](t *testing.T, in []byte, first, second *T) {
	t.Helper()
	if tunnel.ReadFrame(bytes.NewReader(in), first) != nil {
		return
	}
	var b, c bytes.Buffer
	if err := tunnel.WriteFrame(&b, first); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if err := tunnel.ReadFrame(&b, second); err != nil {
		t.Fatal(err)
	}
	if err := tunnel.WriteFrame(&c, second); err != nil || c.String() != text {
		t.Errorf("first %q, then %q, %v", text, c.String(), err)
	}
}
