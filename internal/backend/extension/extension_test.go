package extension_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/backendtest"
	"github.com/flannel-ng/flannel-ng/internal/backend/extension"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const (
	ipv4 = `{"Network":"10.5.0.0/16","Backend":{"Type":"extension","SubnetAddCommand":"add $SUBNET","SubnetRemoveCommand":"del"}}`
	dual = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"extension",` +
		`"PostStartupCommand":"post one","SubnetAddCommand":"add $SUBNET","SubnetRemoveCommand":"del  $SUBNET\tnow ","Timeout":7}}`
	ipv6 = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"extension","SubnetAddCommand":"add"}}`
)

func newExtension(t *testing.T, n config.Network) backend.Backend {
	t.Helper()
	s := backend.Setup{Options: n.Backend, Families: n.Families(), Commands: true}
	for _, f := range n.Families() {
		s.Networks.Put(f, n.Pools.At(f).Network)
	}
	b, warnings, err := extension.New(s)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return b
}

func parse(t *testing.T, text string) (backend.Backend, config.Network) {
	t.Helper()
	n, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return newExtension(t, n), n
}

func TestConform(t *testing.T) {
	backendtest.Conform(t, newExtension, ipv4, ipv6, dual, `{"Network":"10.5.0.0/16","Backend":{"Type":"extension"}}`)
}

func TestGolden(t *testing.T) { backendtest.Golden(t, newExtension) }

func TestOptions(t *testing.T) {
	for _, tt := range []struct{ options, want string }{
		{`{"Type":"extension","Timeout":0}`, "Backend.Timeout 0: must be 1..3600"},
		{`{"Type":"extension","Timeout":3601}`, "Backend.Timeout 3601: must be 1..3600"},
		{`{"Type":"extension","SubnetAddCommand":["ip"]}`, "Backend.SubnetAddCommand"},
	} {
		b := config.Backend{Type: "extension", Options: []byte(tt.options)}
		_, _, err := extension.New(backend.Setup{Options: b, Commands: true})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.options, err, tt.want)
		}
		if _, err := extension.Startup(b); err == nil {
			t.Errorf("%s: a startup command all the same", tt.options)
		}
	}
}

func TestNotAllowed(t *testing.T) {
	_, _, err := extension.New(backend.Setup{Options: config.Backend{Type: "extension"}})
	if !errors.Is(err, extension.ErrNotAllowed) || !strings.Contains(err.Error(), "--allow-extension") {
		t.Errorf("%v: must say how", err)
	}
}

func TestStartup(t *testing.T) {
	for line, want := range map[string][]string{
		"":                         nil,
		" \t\n":                    nil,
		"a":                        {"a"},
		` sh  -c "x;y" $A && z\ n`: {"sh", "-c", `"x;y"`, "$A", "&&", `z\`, "n"},
	} {
		options, err := json.Marshal(map[string]string{"Type": "extension", "PreStartupCommand": line})
		if err != nil {
			t.Fatal(err)
		}
		c, err := extension.Startup(config.Backend{Type: "extension", Options: options})
		if err != nil || !slices.Equal(c.Words, want) {
			t.Errorf("%q: %q, %v; want %q", line, c.Words, err, want)
		}
		if len(c.Words) > 0 && c.Timeout != 30*time.Second {
			t.Errorf("%q: timeout %s", line, c.Timeout)
		}
	}
}

func TestOffer(t *testing.T) {
	for name, tt := range map[string]struct{ startup, pending, want, fails string }{
		"nothing printed": {},
		"text":            {startup: `key "a" <b>` + "\nline", want: `"key \"a\" \u003cb\u003e\nline"`},
		"not run yet":     {pending: "it runs", fails: "PreStartupCommand: it runs"},
		"binary":          {startup: "\xff", fails: "not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, text := range []string{ipv4, dual, ipv6} {
				b, network := parse(t, text)
				n := backendtest.Node(network.Families(), 1)
				n.Startup, n.StartupPending = tt.startup, tt.pending
				o, err := b.Offer(n, nil)
				if tt.fails != "" {
					if err == nil || !strings.Contains(err.Error(), tt.fails) {
						t.Errorf("%v, want %q", err, tt.fails)
					}
					continue
				}
				if want := (lease.Offer{Backend: "extension", Data: addr.Pair(tt.want, "")}); err != nil || o != want {
					t.Errorf("%+v, %v; want %+v", o, err, want)
				}
			}
		})
	}
}

func hooks(t *testing.T, s state.Set) state.Hook {
	t.Helper()
	if len(s.Hooks) != 1 {
		t.Fatalf("hooks %v", s.Hooks)
	}
	return s.Hooks[0]
}

func self(families []addr.Family) (lease.Lease, facts.Node) {
	n := backendtest.Node(families, 1)
	l := lease.Lease{Public: n.Public}
	l.Subnets = addr.Pair(netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fc00:5:0:1::/64"))
	return l, n
}

func TestLocal(t *testing.T) {
	b, network := parse(t, dual)
	own, n := self(network.Families())
	s, err := b.Local(own, n)
	if err != nil || s.MTU != 1500 {
		t.Fatalf("MTU %d, %v", s.MTU, err)
	}
	h := hooks(t, s)
	want := []string{
		"NETWORK=10.5.0.0/16", "IPV6NETWORK=fc00:5::/48", "SUBNET=10.5.1.0/24", "IPV6SUBNET=fc00:5:0:1::/64",
		"PUBLIC_IP=198.51.100.1", "PUBLIC_IPV6=2001:db8::1",
	}
	if h.Name != "startup" || !slices.Equal(h.Run.Env, want) || !slices.Equal(h.Run.Words, []string{"post", "one"}) ||
		h.Run.Timeout != 7*time.Second || h.Run.Stdin != "" || len(h.Undo.Words) > 0 {
		t.Errorf("%+v", h)
	}
}

func peer(data string) lease.Lease {
	return lease.Lease{
		Subnets: addr.Pair(netip.MustParsePrefix("10.5.2.0/24"), netip.MustParsePrefix("fc00:5:0:2::/64")),
		Public:  addr.Pair(netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")),
		Offer:   lease.Offer{Backend: "extension", Data: addr.Pair(data, "")},
	}
}

func TestPeer(t *testing.T) {
	b, network := parse(t, dual)
	own, n := self(network.Families())
	p := peer(`"$(id); $SUBNET\nsecond"`)
	s, err := b.Peer(own, n, p, p.Offer)
	if err != nil {
		t.Fatal(err)
	}
	h := hooks(t, s)
	env := []string{"SUBNET=10.5.2.0/24", "IPV6SUBNET=fc00:5:0:2::/64", "PUBLIC_IP=198.51.100.2", "PUBLIC_IPV6=2001:db8::2"}
	want := state.Hook{
		Name: "10.5.2.0/24,fc00:5:0:2::/64",
		Run: state.Command{
			Words: []string{"add", "$SUBNET"}, Env: env, Stdin: "$(id); $SUBNET\nsecond\n", Timeout: 7 * time.Second,
		},
		Undo: state.Command{
			Words: []string{"del", "$SUBNET", "now"}, Env: env, Stdin: "$(id); $SUBNET\nsecond\n", Timeout: 7 * time.Second,
		},
	}
	if h.After != "startup" {
		t.Errorf("waits for %q", h.After)
	}
	for _, c := range []struct{ got, want state.Command }{{h.Run, want.Run}, {h.Undo, want.Undo}} {
		if h.Name != want.Name || !slices.Equal(c.got.Words, c.want.Words) || !slices.Equal(c.got.Env, c.want.Env) ||
			c.got.Stdin != c.want.Stdin || c.got.Timeout != c.want.Timeout {
			t.Errorf("%s: %+v\nwant %s: %+v", h.Name, c.got, want.Name, c.want)
		}
	}
}

// What a peer writes can refuse only that peer, and is never part of a word.
func TestPeerData(t *testing.T) {
	b, network := parse(t, ipv4)
	own, n := self(network.Families())
	for data, want := range map[string]string{
		"": "\n", `""`: "\n", `"; reboot"`: "; reboot\n", `"a\u0000b"`: "a\x00b\n", `{"a":1}`: "!", `7`: "!", `[`: "!",
	} {
		p := peer(data)
		s, err := b.Peer(own, n, p, p.Offer)
		if want == "!" {
			if err == nil || len(s.Hooks) > 0 {
				t.Errorf("%s: %v, %v", data, s.Hooks, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", data, err)
			continue
		}
		h := hooks(t, s)
		if h.After != "" || h.Run.Stdin != want || h.Undo.Stdin != want || !slices.Equal(h.Run.Words, []string{"add", "$SUBNET"}) {
			t.Errorf("%s: %+v", data, h)
		}
	}
}

// A family that cannot be sent to is left out and named; the other goes on.
func TestPeerFamilies(t *testing.T) {
	b, network := parse(t, dual)
	own, n := self(network.Families())
	p := peer(`"x"`)
	p.Public.Put(addr.IPv6, netip.Addr{})
	s, err := b.Peer(own, n, p, p.Offer)
	if err == nil || !strings.Contains(err.Error(), "IPv6: no public address") {
		t.Errorf("%v", err)
	}
	want := []string{"SUBNET=10.5.2.0/24", "IPV6SUBNET=", "PUBLIC_IP=198.51.100.2", "PUBLIC_IPV6="}
	if h := hooks(t, s); h.Name != "10.5.2.0/24" || !slices.Equal(h.Run.Env, want) {
		t.Errorf("%+v", h)
	}
	p.Public.Put(addr.IPv4, netip.Addr{})
	if s, err := b.Peer(own, n, p, p.Offer); err == nil || len(s.Hooks) > 0 {
		t.Errorf("%v, %v", s.Hooks, err)
	}
}

// Without commands there is nothing to do, and a host is ready all the same.
func TestNoCommands(t *testing.T) {
	b, network := parse(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"extension","SubnetAddCommand":"  "}}`)
	own, n := self(network.Families())
	local, err := b.Local(own, n)
	if err != nil || len(local.Hooks) > 0 {
		t.Errorf("%v, %v", local.Hooks, err)
	}
	p := peer("")
	if s, err := b.Peer(own, n, p, p.Offer); err != nil || len(s.Hooks) > 0 {
		t.Errorf("%v, %v", s.Hooks, err)
	}
}

func FuzzPeerData(f *testing.F) {
	for _, seed := range []string{"", `""`, `"a"`, "null", "{}", `"\ud800"`, `"` + strings.Repeat("x", 100) + `"`} {
		f.Add(seed)
	}
	network, err := config.Parse([]byte(ipv4))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data string) {
		b := newExtension(t, network)
		own, n := self(network.Families())
		p := peer(data)
		s, err := b.Peer(own, n, p, p.Offer)
		if err != nil {
			if len(s.Hooks) > 0 {
				t.Error("refused and used")
			}
			return
		}
		h := hooks(t, s)
		if !strings.HasSuffix(h.Run.Stdin, "\n") || len(h.Run.Stdin) > 3*len(data)+1 ||
			len(h.Run.Env) != 4 || len(h.Run.Words) != 2 {
			t.Errorf("%+v", h)
		}
	})
}
