package torture

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// runner sends groups and compares.
type runner struct {
	*stage
	tally *Tally

	group   string
	told    int // mismatches of this group
	ledger  *ledger
	answers []answer
	from    netip.Addr
	judge   judge
}

// Limits of one batch: what queues on the way hold for sure.
const (
	batchProbes = 24
	batchBytes  = 100 << 10
)

// longest is how long to wait for what should come: also a machine that is busy
// with other things delivers within that.
const longest = 20 * time.Second

// matching are the groups whose name matches.
func matching(pattern string) ([]group, error) {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	var some []group
	for _, g := range groups() {
		if wanted.MatchString(g.name) {
			some = append(some, g)
		}
	}
	return some, nil
}

// run sends a group, batch by batch.
func (r *runner) run(ctx context.Context, g group, k *kit) error {
	if err := r.prepare(ctx, g, k); err != nil {
		return err
	}
	r.told = 0
	r.group = fmt.Sprintf("%s, %s", g.name, k.family)
	r.ledger, r.answers, r.from = newLedger(g.whole), nil, k.ends[0]
	r.judge = judge{tunnel: r.stage.from.tunnel, mtu: r.uplink, mark: g.mark, odd: map[string]bool{}}
	probes := g.make(k)
	for len(probes) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		now, bytes := 0, 0
		for now < len(probes) && now < batchProbes && bytes < batchBytes {
			bytes += len(probes[now].send)
			now++
		}
		if err := r.batch(probes[:now]); err != nil {
			return err
		}
		probes = probes[now:]
	}
	r.rest(ctx)
	r.reckon()
	return r.undo(ctx, g, k)
}

// prepare makes the network what the group needs: marks on the way, a smaller
// MTU on the path between the hosts.
func (r *runner) prepare(ctx context.Context, g group, k *kit) error {
	if g.path > 0 {
		route := fmt.Sprintf("route add %s dev eth0 mtu lock %d", addr.Single(r.hosts[1].Underlay(k.family)), g.path)
		if err := r.hosts[0].IP(ctx, route); err != nil {
			return err
		}
	}
	return r.mark(ctx, g.mark)
}

func (r *runner) undo(ctx context.Context, g group, k *kit) error {
	if g.path > 0 {
		route := fmt.Sprintf("route del %s dev eth0", addr.Single(r.hosts[1].Underlay(k.family)))
		if err := r.hosts[0].IP(ctx, route); err != nil {
			return err
		}
	}
	return r.mark(ctx, 0)
}

// batch sends some probes and waits for what they shall lead to.
func (r *runner) batch(probes []probe) error {
	for _, p := range probes {
		for _, want := range p.want {
			r.ledger.expect(want)
		}
		if p.back != nil {
			r.answers = append(r.answers, *p.back)
		}
		if p.odd {
			r.judge.odd[string(hop(p.send, 1))] = true
		}
	}
	for _, p := range probes {
		if err := r.in.send(r.gateway, p.send, p.via); err != nil {
			return err
		}
	}
	r.tally.Sent += len(probes)
	r.collect()
	return nil
}

// collect takes what arrives until nothing is expected any more.
func (r *runner) collect() {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	for {
		if missing, _ := r.ledger.missing(); missing == 0 && len(r.answers) == 0 {
			return
		}
		if !r.take(timer.C) {
			missing, one := r.ledger.missing()
			r.mismatch("late: after %s, %d packets and %d answers had not come, one of %x", longest, missing, len(r.answers), clip([]byte(one)))
			return
		}
	}
}

// take waits for one frame, or for the end of the time.
func (r *runner) take(over <-chan time.Time) bool {
	select {
	case frame := <-r.out.frames:
		r.arrived(frame)
	case frame := <-r.in.frames:
		r.returned(frame)
	case frame := <-r.wire.frames:
		r.passed(frame)
	case <-over:
		return false
	}
	return true
}

// rest takes what still comes, expected or not, until every port has heard
// nothing for a while: what comes after that would be judged as another group's.
func (r *runner) rest(ctx context.Context) {
	ports := []*port{r.out, r.in, r.wire}
	var from []int64
	for _, p := range ports {
		from = append(from, p.quiet.Load())
	}
	tick := time.NewTicker(silence / 4)
	defer tick.Stop()
	for ctx.Err() == nil {
		if r.take(tick.C) {
			continue
		}
		quiet := 0
		for i, p := range ports {
			// Twice: the first silence may have begun before the last packet left.
			if p.quiet.Load() > from[i]+1 && len(p.frames) == 0 {
				quiet++
			}
		}
		if quiet == len(ports) {
			return
		}
	}
}

// arrived compares a packet at the receiver.
func (r *runner) arrived(frame []byte) {
	raw, done, ok := ip(frame)
	if !ok || chatter(raw) {
		return
	}
	switch {
	case !done:
		r.mismatch("arrived unsegmented or unsummed: %x", clip(raw))
	case r.ledger.settle(raw):
		r.tally.Compared++
	default:
		r.mismatch("not expected, %d bytes: %x; %s", len(raw), clip(raw), r.ledger.nearest(raw))
	}
}

// chatter is what kernels say to each other by themselves: neighbour discovery,
// multicast.
func chatter(raw []byte) bool {
	v, err := parse(raw)
	if err != nil {
		return false
	}
	neighbour := v.proto == protoICMPv6 && v.ttl == 255 && len(v.body) > 0 && v.body[0] >= 133 && v.body[0] <= 137
	return neighbour || v.to.IsMulticast() || v.from.IsLinkLocalUnicast()
}

// returned compares an ICMP error at the sender.
func (r *runner) returned(frame []byte) {
	raw, _, ok := ip(frame)
	if !ok || chatter(raw) {
		return
	}
	v, err := parse(raw)
	if err == nil && v.to != r.from {
		return // for the container itself
	}
	var why error
	for i, a := range r.answers {
		why = err
		if err == nil {
			why = a.matches(v, r.from)
		}
		if why == nil {
			r.tally.Answers++
			r.answers = append(r.answers[:i], r.answers[i+1:]...)
			return
		}
	}
	r.mismatch("answer not expected: %x: %v", clip(raw), why)
}

// passed looks at a datagram on the underlay.
func (r *runner) passed(frame []byte) {
	raw, done, ok := ip(frame)
	if !ok {
		return
	}
	ours, err := r.judge.look(raw)
	if !ours {
		return
	}
	r.tally.Wire++
	if !done {
		err = fmt.Errorf("unsegmented or unsummed: %x", clip(raw))
	}
	if err != nil {
		r.mismatch("on the wire: %v", err)
	}
}

// reckon counts what never came.
func (r *runner) reckon() {
	if n, one := r.ledger.missing(); n > 0 {
		r.tally.Mismatches += n - 1
		r.mismatch("%d packets did not arrive, one of %d bytes: %x", n, len(one), clip([]byte(one)))
	}
	if n := len(r.answers); n > 0 {
		a := r.answers[0]
		r.tally.Mismatches += n - 1
		r.mismatch("%d answers did not come, %d/%d from %s among them", n, a.kind[0], a.kind[1], a.from)
	}
}

func (r *runner) mismatch(format string, args ...any) {
	r.tally.Mismatches++
	if r.told++; r.told <= details {
		r.tally.Details = append(r.tally.Details, r.group+": "+fmt.Sprintf(format, args...))
	}
}

// mark lets the switch set the ECN field of what comes from the first host, as
// a congested router does (or, for other values, one that breaks the rules).
func (r *runner) mark(ctx context.Context, ecn int) error {
	const off = "table netdev torture\ndelete table netdev torture\n"
	text := off
	if ecn != 0 {
		text += fmt.Sprintf(`table netdev torture {
 chain in {
  type filter hook ingress device "p-h1" priority 0;
  udp dport %d ip ecn set %d
  udp dport %d ip6 ecn set %d
 }
}
`, r.stage.from.tunnel.port, ecn, r.stage.from.tunnel.port, ecn)
	}
	return r.fabric.Switch.Feed(ctx, text, "nft", "-f", "-")
}

// outsider is an address in the cluster network that neither host has: one near
// homes[0], or, if the other happens to be there, farther away.
func outsider(homes [2]netip.Prefix) netip.Addr {
	at := func(flip byte) netip.Addr {
		b := homes[0].Addr().AsSlice()
		if homes[0].Addr().Is4() {
			b[2] ^= flip
		} else {
			b[6] ^= flip
		}
		b[len(b)-1] = 9
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	if a := at(0x80); !homes[1].Contains(a) {
		return a
	}
	return at(0x40)
}
