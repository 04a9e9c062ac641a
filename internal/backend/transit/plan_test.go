package transit_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

const (
	vx  = "vxlan vni 1 port 8472"
	vx7 = "vxlan vni 7 port 8472"
	vxp = "vxlan vni 1 port 4789"
	vxg = "vxlan vni 1 port 8472 gbp"
	up  = "udp port 8285"
	up2 = "udp port 9999"
	gw  = "host-gw"
)

func optionsOf(wire string) string {
	return map[string]string{
		vx: `{"Type":"vxlan"}`, vx7: `{"Type":"vxlan","VNI":7}`, vxp: `{"Type":"vxlan","Port":4789}`,
		vxg: `{"Type":"vxlan","GBP":true}`, up: `{"Type":"udp"}`, up2: `{"Type":"udp","Port":9999}`, gw: `{"Type":"host-gw"}`,
		"alloc": `{"Type":"alloc"}`,
	}[wire]
}

// offerOf is the offer of a host that says so: wires, the primary first, with a
// "-" behind those that it only receives by. "plain" before one is a host without
// a record, whose lease says it.
func offerOf(tb testing.TB, says ...string) lease.Offer {
	tb.Helper()
	wire, plain := strings.CutPrefix(says[0], "plain ")
	wire = strings.TrimSuffix(wire, "-")
	o := lease.Offer{Backend: strings.Fields(wire)[0]}
	o.Data = dataOf(wire)
	if plain {
		return o
	}
	var r transit.Record
	for _, s := range says {
		wire, only := strings.CutSuffix(s, "-")
		e := transit.Entry{Wire: wire, Backend: []byte(optionsOf(wire)), ReceiveOnly: only}
		if len(r.Entries) > 0 {
			e.Data = dataOf(wire)
		}
		r.Entries = append(r.Entries, e)
	}
	var err error
	if o.Extra, err = r.Format(""); err != nil {
		tb.Fatal(err)
	}
	return o
}

// dataOf is backend data for a wire.
func dataOf(wire string) (out addr.ByFamily[string]) {
	switch {
	case wire == vx7:
		out.Put(addr.IPv4, `{"VNI":7,"VtepMAC":"02:00:00:00:00:01"}`)
	case strings.HasPrefix(wire, "vxlan"):
		out.Put(addr.IPv4, `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`)
	}
	return out
}

// situation is one row.
type situation struct {
	config string
	fresh  bool
	own    []string   // what this host has said; nil: nothing
	others [][]string // what others have said
	placed []string
	using  []string // nil: not known
	last   []string
	idle   map[string]time.Duration // how long
	reserv bool                     // one of the others is a reservation
	loose  bool                     // the picture may lack hosts
}

func (s situation) plan(t *testing.T) transit.Plan {
	t.Helper()
	now := time.Unix(1e9, 0)
	in := transit.Situation{
		Config: carrier(t, optionsOf(s.config)), Fresh: s.fresh, Others: transit.NewCensus(kit()), Trusted: !s.loose,
		Placed: map[string]bool{}, Idle: map[string]time.Time{}, Now: now,
	}
	if s.own != nil {
		o := offerOf(t, s.own...)
		in.Shown, in.Held, in.Asked = &o, &o, &o
	}
	for _, w := range s.placed {
		in.Placed[w] = true
	}
	if s.using != nil {
		in.Using = map[string]bool{}
	}
	for _, w := range s.using {
		in.Using[w] = true
	}
	for _, w := range s.last {
		in.Last = append(in.Last, carrier(t, optionsOf(w)))
	}
	for w, d := range s.idle {
		in.Idle[w] = now.Add(-d)
	}
	var leases []*lease.Lease
	for i, says := range s.others {
		l := leaseOf(i+2, "other")
		l.Offer = offerOf(t, says...)
		if strings.HasPrefix(says[0], "plain") {
			l.Owner = ""
			l.Reserved = s.reserv
		}
		leases = append(leases, &l)
	}
	in.Others.Update(leases, network(), lease.Self{HostID: "me"})
	return transit.Next(in)
}

// want is what is to come of a row.
type want struct {
	receive, publish, send string
	phase                  transit.Phase
	why                    string // part of it
}

func row(wires ...string) string { return strings.Join(wires, ", ") }

func TestPlan(t *testing.T) {
	for name, tt := range map[string]struct {
		situation
		want
	}{
		"alone, first start":       {situation{config: vx, fresh: true}, want{vx, vx, vx, transit.Steady, ""}},
		"all is done":              {situation{config: vx, own: []string{vx}, others: [][]string{{vx}}, placed: []string{vx}, using: []string{vx}}, want{vx, vx, vx, transit.Steady, ""}},
		"another config":           {situation{config: up, own: []string{vx}, others: [][]string{{vx}}, placed: []string{vx}, using: []string{vx}}, want{row(vx, up), vx, vx, transit.Preparing, ""}},
		"the new one is in place":  {situation{config: up, own: []string{vx}, others: [][]string{{vx}}, placed: []string{vx, up}, using: []string{vx}}, want{row(vx, up), row(vx, up), vx, transit.Receiving, "waits for 198.51.100.2"}},
		"said, not heard":          {situation{config: up, own: []string{vx, up}, others: [][]string{{vx}}, placed: []string{vx, up}, using: []string{vx}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Receiving, "waits for 198.51.100.2"}},
		"one can, one cannot yet":  {situation{config: up, own: []string{vx, up}, others: [][]string{{vx, up}, {vx}}, placed: []string{vx, up}, using: []string{vx, up}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Receiving, "waits for 198.51.100.3"}},
		"all can":                  {situation{config: up, own: []string{vx, up}, others: [][]string{{vx, up}, {vx, up}}, placed: []string{vx, up}, using: []string{vx}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Sending, ""}},
		"all is sent by it":        {situation{config: up, own: []string{vx, up}, others: [][]string{{vx, up}}, placed: []string{vx, up}, using: []string{up}}, want{row(up, vx), row(up, vx+"-"), row(vx, up), transit.Keeping, "waits for 198.51.100.2"}},
		"others still send":        {situation{config: up, own: []string{up, vx + "-"}, others: [][]string{{vx, up}}, placed: []string{vx, up}, using: []string{up}}, want{row(up, vx), row(up, vx+"-"), up, transit.Keeping, "waits for 198.51.100.2"}},
		"nobody sends":             {situation{config: up, own: []string{up, vx + "-"}, others: [][]string{{up, vx + "-"}}, placed: []string{vx, up}, using: []string{up}}, want{row(up, vx), up, up, transit.Keeping, "for a moment"}},
		"told, for a moment":       {situation{config: up, own: []string{up}, others: [][]string{{up}}, placed: []string{vx, up}, using: []string{up}, last: []string{up, vx}}, want{row(up, vx), up, up, transit.Keeping, "for a moment"}},
		"the moment is not over":   {situation{config: up, own: []string{up}, others: [][]string{{up}}, placed: []string{up}, using: []string{up}, last: []string{up, vx}, idle: map[string]time.Duration{vx: time.Second}}, want{row(up, vx), up, up, transit.Keeping, ""}},
		"the moment is over":       {situation{config: up, own: []string{up}, others: [][]string{{up}}, placed: []string{up}, using: []string{up}, last: []string{up, vx}, idle: map[string]time.Duration{vx: transit.Grace}}, want{up, up, up, transit.Steady, ""}},
		"a sender after the end":   {situation{config: up, own: []string{up}, others: [][]string{{up, vx}}, placed: []string{vx, up}, using: []string{up}, last: []string{up, vx}, idle: map[string]time.Duration{vx: time.Hour}}, want{row(up, vx), row(up, vx+"-"), up, transit.Keeping, "198.51.100.2"}},
		"taken back":               {situation{config: vx, own: []string{vx, up}, others: [][]string{{vx, up}}, placed: []string{vx, up}, using: []string{vx, up}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Sending, ""}},
		"taken back, not used":     {situation{config: vx, own: []string{vx, up}, others: [][]string{{vx, up}}, placed: []string{vx, up}, using: []string{vx}}, want{row(vx, up), row(vx, up+"-"), row(vx, up), transit.Keeping, ""}},
		"taken back, others ahead": {situation{config: vx, own: []string{vx, up}, others: [][]string{{up, vx + "-"}}, placed: []string{vx, up}, using: []string{up}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Sending, ""}},
		"set twice":                {situation{config: gw, own: []string{vx, up}, others: [][]string{{vx, up}}, placed: []string{vx, up}, using: []string{vx}}, want{row(vx, up, gw), row(vx, up+"-"), row(vx, up), transit.Preparing, ""}},
		"set thrice: no room":      {situation{config: vx7, own: []string{vx, up, gw}, others: [][]string{{vx, up, gw}}, placed: []string{vx, up, gw}, using: []string{vx}}, want{row(vx, up, gw), row(vx, up+"-", gw+"-"), row(vx, up, gw), transit.Preparing, "no room for it beside"}},
		"restart in the middle":    {situation{config: up, fresh: true, own: []string{vx, up}, others: [][]string{{vx, up}}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Sending, ""}},
		"changed while down":       {situation{config: gw, fresh: true, own: []string{vx}, others: [][]string{{vx}}}, want{row(vx, gw), vx, vx, transit.Preparing, ""}},
		"joins before":             {situation{config: up, fresh: true, others: [][]string{{vx}, {vx}}}, want{row(vx, up), vx, row(up, vx), transit.Receiving, "198.51.100.2, 198.51.100.3"}},
		"joins in the middle":      {situation{config: up, fresh: true, others: [][]string{{vx, up}, {vx, up}}}, want{row(up, vx), up, row(up, vx), transit.Keeping, ""}},
		"joins after":              {situation{config: up, fresh: true, others: [][]string{{up}}}, want{up, up, up, transit.Steady, ""}},
		"joins hosts that differ":  {situation{config: gw, fresh: true, others: [][]string{{vx}, {up}, {up}}}, want{row(up, gw, vx), up, row(gw, up, vx), transit.Receiving, ""}},
		"from an older version":    {situation{config: vx, fresh: true, own: []string{"plain " + vx}, others: [][]string{{"plain " + vx}}}, want{vx, vx, vx, transit.Steady, ""}},
		"held":                     {situation{config: up, own: []string{vx, up}, others: [][]string{{"plain " + vx}, {vx, up}}, placed: []string{vx, up}, using: []string{vx}}, want{row(vx, up), row(vx, up), row(vx, up), transit.Held, "by 198.51.100.2 (plain flannel)"}},
		"held after it had moved":  {situation{config: up, own: []string{up, vx + "-"}, others: [][]string{{"plain " + vx}, {vx, up}}, placed: []string{vx, up}, using: []string{up}}, want{row(up, vx), row(up, vx), up, transit.Held, ""}},
		"a reservation":            {situation{config: vx, own: []string{vx}, others: [][]string{{"plain " + up}}, placed: []string{vx}, using: []string{}, reserv: true}, want{vx, vx, vx, transit.Steady, ""}},
		"plain, of who knows what": {situation{config: up, own: []string{up}, others: [][]string{{"plain " + vx7}}, placed: []string{up}, using: []string{}}, want{up, up, up, transit.Steady, ""}},
		"plain, as in the config":  {situation{config: up, own: []string{vx, up}, others: [][]string{{"plain " + up}, {vx, up}}, placed: []string{vx, up}, using: []string{up}}, want{row(up, vx), row(up, vx+"-"), row(vx, up), transit.Keeping, ""}},
		"one use of a port":        {situation{config: vxg, own: []string{vx}, others: [][]string{{vx}}, placed: []string{vx}, using: []string{vx}}, want{vx, vx, vx, transit.Blocked, "both need UDP port 8472"}},
		"one forwarder":            {situation{config: up2, own: []string{up}, others: [][]string{{up}}, placed: []string{up}, using: []string{up}}, want{up, up, up, transit.Blocked, "a host has one forwarder"}},
		"one forwarder, restarted": {situation{config: up2, fresh: true, own: []string{up}, others: [][]string{{up}}}, want{up2, up2, "", transit.Preparing, ""}},
		"two ports":                {situation{config: vxp, own: []string{vx}, others: [][]string{{vx}}, placed: []string{vx, vxp}, using: []string{vx}}, want{row(vx, vxp), row(vx, vxp), vx, transit.Receiving, ""}},
		"not all hosts are shown":  {situation{config: up, own: []string{up, vx + "-"}, others: [][]string{{up}}, placed: []string{vx, up}, using: []string{up}, loose: true}, want{row(up, vx), row(up, vx+"-"), up, transit.Keeping, ""}},
		"a dead host":              {situation{config: gw, own: []string{up, gw}, others: [][]string{{up, gw}, {up}}, placed: []string{up, gw}, using: []string{up, gw}}, want{row(up, gw), row(up, gw), row(up, gw), transit.Receiving, "waits for 198.51.100.3"}},
		"no other stands beside":   {situation{config: "alloc", own: []string{vx}, others: [][]string{{vx}}}, want{"", "", "", transit.Steady, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, tt.plan(t), tt.want)
		})
	}
}

func check(t *testing.T, p transit.Plan, w want) {
	t.Helper()
	var receive, publish []string
	for _, c := range p.Receive {
		if c.Wire.Name != "" {
			receive = append(receive, c.Wire.Name)
		}
	}
	for _, l := range p.Publish {
		if l.ReceiveOnly {
			l.Wire += "-"
		}
		publish = append(publish, l.Wire)
	}
	send := slices.Sorted(slices.Values(p.Send))
	wanted := slices.DeleteFunc(strings.Split(w.send, ", "), func(s string) bool { return s == "" })
	slices.Sort(wanted)
	if row(receive...) != w.receive {
		t.Errorf("receives %q, want %q", row(receive...), w.receive)
	}
	if row(publish...) != w.publish {
		t.Errorf("publishes %q, want %q", row(publish...), w.publish)
	}
	if !slices.Equal(send, wanted) {
		t.Errorf("sends %q, want %q", send, wanted)
	}
	if p.State.Phase != w.phase || !strings.Contains(p.State.Why, w.why) {
		t.Errorf("%s: %s, want %s: %s", p.State.Phase, p.State.Why, w.phase, w.why)
	}
}

// A long Backend object could not be told to others: such a fabric changes by a
// restart.
func TestTooLongToTell(t *testing.T) {
	b := config.Backend{Type: "vxlan", Options: []byte(`{"Type":"vxlan","Comment":"` + strings.Repeat("x", 1000) + `"}`)}
	if c, err := kit().Of(b); err != nil || c.Wire.Name != "" {
		t.Errorf("%+v, %v", c.Wire, err)
	}
}
