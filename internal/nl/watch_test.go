package nl_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/nl"
)

func subscribe(tb testing.TB) *nl.Subscription {
	tb.Helper()
	s, err := nl.Subscribe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// heard receives until a link named as the mark changed, and returns what came
// before that.
func heard(t *testing.T, s *nl.Subscription) []nl.Event {
	t.Helper()
	alias := fmt.Sprint(time.Now().UnixNano())
	drivertest.Run(t, "ip link set foreign1 alias "+alias)
	var out []nl.Event
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for done := false; !done; {
		if err := s.Receive(ctx, func(e nl.Event) {
			if done = done || e.Alias == alias; !done {
				out = append(out, e)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Neighbours and forwarding entries come from the links attended to, whichever
// of many they are, and from no other.
func TestAttend(t *testing.T) {
	drivertest.Namespace(t)
	c, s := dial(t), subscribe(t)
	index := map[string]int{}
	for _, name := range []string{"fvx", "eth0", "foreign0"} {
		l, err := c.LinkNamed(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		index[name] = l.Index
	}
	many := make([]int, 64)
	for i := range many {
		many[i] = 1<<20 + i
	}
	for name, attended := range map[string][]int{
		"none": nil, "others": many, "one": {index["fvx"]}, "two": {index["fvx"], index["foreign0"]},
		"first of many": append([]int{index["fvx"]}, many[1:]...),
		"last of many":  append(append([]int{}, many[1:]...), index["fvx"]),
		"too many":      append(append([]int{}, many...), index["fvx"], index["foreign0"]),
	} {
		if err := s.Attend(attended); err != nil {
			t.Fatal(name, err)
		}
		heard(t, s)
		for _, link := range []string{"fvx", "foreign0"} {
			drivertest.Run(t, `
				ip neigh add 192.0.2.61 lladdr 02:00:00:00:00:61 dev `+link+` nud permanent
				ip neigh del 192.0.2.61 dev `+link)
		}
		drivertest.Run(t, `
			bridge fdb add 02:00:00:00:00:61 dev fvx dst 198.51.100.61 self permanent
			bridge fdb del 02:00:00:00:00:61 dev fvx self`)
		want, got := map[int]int{}, map[int]int{}
		for _, i := range attended {
			switch i {
			case index["fvx"]:
				want[i] = 5 // added, failed, gone; added, gone
			case index["foreign0"]:
				want[i] = 3
			}
		}
		for _, e := range heard(t, s) {
			if e.Subject == nl.SubjectNeighbour || e.Subject == nl.SubjectFDB {
				got[e.Link]++
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: events by link %v, want %v", name, got, want)
		}
	}
}

// BenchmarkForeignNeighbour is what one update of a container bridge's neighbour
// costs this process, when the filter drops it and when it does not.
func BenchmarkForeignNeighbour(b *testing.B) {
	for _, dropped := range []bool{true, false} {
		b.Run(fmt.Sprintf("dropped=%v", dropped), func(b *testing.B) {
			drivertest.Namespace(b)
			c, err := nl.Dial()
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			l, err := c.LinkNamed(b.Context(), "foreign0")
			if err != nil {
				b.Fatal(err)
			}
			s := subscribe(b)
			attended := []int{1 << 20}
			if !dropped {
				attended = []int{l.Index}
			}
			if err := s.Attend(attended); err != nil {
				b.Fatal(err)
			}
			var lines strings.Builder
			for i := range b.N {
				fmt.Fprintf(&lines, "neigh replace 192.0.2.77 lladdr 02:00:00:%02x:%02x:%02x dev foreign0 nud stale\n", i>>16&255, i>>8&255, i&255)
			}
			file := filepath.Join(b.TempDir(), "batch")
			if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			stopped := make(chan int)
			go func() {
				n := 0
				for ctx.Err() == nil {
					if err := s.Receive(ctx, func(nl.Event) { n++ }); err != nil && ctx.Err() == nil {
						b.Error(err)
						break
					}
				}
				stopped <- n
			}()
			before := cpu(b)
			b.ResetTimer()
			drivertest.Run(b, "ip -batch "+file)
			b.StopTimer()
			cancel()
			n := <-stopped
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(n)/float64(b.N), "seen/op")
		})
	}
}

// cpu is the processor time of this process, without that of children.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rules is a datagram of the nftables group.
func rules(tb testing.TB, typ uint16, family byte, attrs ...netlink.Attribute) []byte {
	tb.Helper()
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		tb.Fatal(err)
	}
	m := netlink.Message{Data: append([]byte{family, 0, 0, 0}, body...)}
	m.Header.Type, m.Header.PID = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8|typ), 4711
	m.Header.Length = uint32(16 + len(m.Data))
	out, err := m.MarshalBinary()
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func text(s string) []byte { return append([]byte(s), 0) }

func TestRuleNotifications(t *testing.T) {
	table := netlink.Attribute{Type: 1, Data: text("nat")}
	var datagram []byte
	for _, m := range [][]byte{
		rules(t, unix.NFT_MSG_NEWTABLE, unix.AF_INET, table),
		rules(t, unix.NFT_MSG_DELCHAIN, unix.AF_INET6, table, netlink.Attribute{Type: 3, Data: text("POSTROUTING")}),
		rules(t, unix.NFT_MSG_NEWRULE, unix.AF_INET, table, netlink.Attribute{Type: 2, Data: text("FORWARD")}, netlink.Attribute{Type: 3, Data: make([]byte, 8)}),
		rules(t, unix.NFT_MSG_NEWSETELEM, unix.AF_INET, table, netlink.Attribute{Type: 2, Data: text("a set")}),
		rules(t, unix.NFT_MSG_NEWTABLE, unix.AF_BRIDGE, table),
		rules(t, unix.NFT_MSG_NEWGEN, unix.AF_UNSPEC, netlink.Attribute{Type: 1, Data: []byte{0, 0, 0, 9}},
			netlink.Attribute{Type: 2, Data: []byte{0, 0, 0x12, 0x34}}, netlink.Attribute{Type: 3, Data: text("nft")}),
	} {
		datagram = append(datagram, m...)
	}
	var got []string
	v := nl.RuleVisitor{
		Changed:   func(c nl.RuleChange) { got = append(got, fmt.Sprint(c.Family, " ", c.Table, " ", c.Chain)) },
		Committed: func(c nl.Commit) { got = append(got, fmt.Sprint(c.Port, " ", c.Process, " ", c.Name, " ", c.Own)) },
	}
	if err := nl.VisitRules(v, datagram); err != nil {
		t.Fatal(err)
	}
	want := "IPv4 nat ,IPv6 nat POSTROUTING,IPv4 nat FORWARD,IPv4 nat ,4711 4660 nft false"
	if s := strings.Join(got, ","); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func FuzzRuleNotifications(f *testing.F) {
	f.Add(rules(f, unix.NFT_MSG_NEWRULE, unix.AF_INET, netlink.Attribute{Type: 1, Data: text("nat")}, netlink.Attribute{Type: 2, Data: text("FORWARD")}))
	f.Add(rules(f, unix.NFT_MSG_NEWGEN, 0, netlink.Attribute{Type: 2, Data: []byte{1}}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = nl.VisitRules(nl.RuleVisitor{Changed: func(nl.RuleChange) {}, Committed: func(nl.Commit) {}}, b)
	})
}

// BenchmarkForeignRule is what each rule of a proxy's transactions costs this
// process.
func BenchmarkForeignRule(b *testing.B) {
	drivertest.Namespace(b)
	if _, err := exec.LookPath("nft"); err != nil {
		b.Skipf("needs nft: %v", err)
	}
	s, err := nl.SubscribeRules()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const portion = 1000
	var lines strings.Builder
	lines.WriteString("table ip proxy {\nchain c {\n")
	for i := range portion {
		fmt.Fprintf(&lines, "ip saddr 192.0.2.1 tcp dport %d counter accept\n", i+1)
	}
	lines.WriteString("}\n}\n")
	file := filepath.Join(b.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan int)
	go func() {
		n := 0
		v := nl.RuleVisitor{Changed: func(nl.RuleChange) { n++ }, Committed: func(nl.Commit) {}}
		for ctx.Err() == nil {
			if err := s.Receive(ctx, v); err != nil && ctx.Err() == nil {
				b.Error(err)
				break
			}
		}
		stopped <- n
	}()
	before, made := cpu(b), 0
	b.ResetTimer()
	for ; made < b.N; made += portion {
		drivertest.Run(b, "nft -f "+file+"\nnft delete table ip proxy")
	}
	b.StopTimer()
	cancel()
	n := <-stopped
	b.ReportMetric(float64(cpu(b)-before)/float64(made), "cpu-ns/op")
	b.ReportMetric(float64(n)/float64(made), "seen/op")
}
