package chaos

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// The store, written to by others.
func storeFaults() []fault {
	return []fault{
		{name: "garbage in the store", inject: strange(garbage), gone: named(garbage), undo: cleared(garbage), wide: true, mute: true},
		{name: "peers with foreign, overlapping, too large or own subnets", inject: strange(subnets), gone: named(subnets), undo: cleared(subnets), wide: true, mute: true},
		{name: "peer with our public IP", inject: strange(twin), gone: namedHere(twin), undo: cleared(twin), wide: true, mute: true},
		{name: "own lease deleted", inject: leaseDeleted, gone: leaseBack, wide: true, mute: true},
		{name: "own lease expired", inject: leaseRevoked, gone: leaseBack, wide: true, mute: true},
		{name: "own lease altered by another writer", inject: leaseAltered, gone: leaseBack, wide: true, mute: true},
		{name: "own lease overwritten with garbage", inject: leaseGarbled, gone: leaseBack, wide: true, mute: true},
		{name: "own lease taken by another host", inject: leaseTaken, gone: yielded, undo: takerGone, dark: true, wide: true, mute: true},
		{name: leaving, inject: leavesMeanwhile, mute: true},
	}
}

// entry is a key below the prefix that nobody should have written.
type entry struct{ key, value string }

// garbage is unreadable, in all the ways.
func garbage(t *trial) []entry {
	values := []string{`{"PublicIP":`, ``, "\x00\xff\xfe", `[]`, `{"PublicIP":"not an address","BackendType":"` + t.kind() + `"}`}
	out := []entry{
		{"subnets/garbage", `{}`},
		{"subnets/10.5.300.0-24", `x`},
		{"subnets/" + t.spare(0) + "-33", t.value("198.51.100.201")},
		{"ng/claims/" + t.spare(1) + "-24", `{`},
		{"ng/claims/what", `{}`},
		{"ng/what", `ever`},
	}
	for i, v := range values {
		out = append(out, entry{"subnets/" + t.spare(2+i) + "-24", v})
	}
	return out
}

// spare is a subnet of the cluster that no host has.
func (t *trial) spare(n int) string {
	taken := map[string]bool{}
	for _, h := range t.fabric.Hosts {
		if gateway, err := h.Gateway(addr.IPv4); err == nil {
			taken[gateway.Masked().Addr().String()] = true
		}
	}
	for i := 1; ; i++ {
		text := fmt.Sprintf("10.5.%d.0", i)
		if !taken[text] {
			n--
		}
		if n < 0 {
			return text
		}
	}
}

// subnets are readable, and nobody may have them.
func subnets(t *trial) []entry {
	own, reached := t.first(t.host), t.first(t.peer())
	if !strings.Contains(own, ".") {
		return []entry{
			{"subnets/0.0.0.0-0&2001:db8:77::-64", t.value("")},
			{"subnets/0.0.0.0-0&fc00:5::-48", t.value("")},
			{"subnets/0.0.0.0-0&" + strings.TrimSuffix(own, "-64") + "-80", t.value("")},
			{"subnets/0.0.0.0-0&" + strings.TrimSuffix(reached, "-64") + "-80", t.value("")},
		}
	}
	return []entry{
		{"subnets/8.8.8.0-24", t.value("198.51.100.201")},
		{"subnets/10.5.0.0-16", t.value("198.51.100.202")},
		{"subnets/10.0.0.0-8", t.value("198.51.100.203")},
		{"subnets/" + strings.TrimSuffix(own, "-24") + "-25", t.value("198.51.100.204")},
		{"subnets/" + strings.TrimSuffix(reached, "-24") + "-25", t.value("198.51.100.205")},
	}
}

// twin has our address.
func twin(t *trial) []entry {
	if !strings.Contains(t.first(t.host), ".") {
		return []entry{{"subnets/0.0.0.0-0&fc00:5:0:ffff::-64", t.valueAt(t.host)}}
	}
	return []entry{{"subnets/" + t.spare(20) + "-24", t.valueAt(t.host)}}
}

// first is a host's subnet in the first family, as keys have it.
func (t *trial) first(h *lab.Host) string {
	gateway, err := h.Gateway(t.families()[0])
	if err != nil {
		return err.Error() // no key has it
	}
	return strings.ReplaceAll(gateway.Masked().String(), "/", "-")
}

// kind is the backend as leases name it.
func (t *trial) kind() string {
	if t.carrier == direct {
		return vxlan
	}
	return t.carrier
}

// value is that of a plain flannel's lease.
func (t *trial) value(public string) string {
	quote := func(a string) string {
		if a == "" {
			return "null"
		}
		return `"` + a + `"`
	}
	six := ""
	if public == "" || strings.Contains(public, ":") {
		six, public = public, ""
		if six == "" {
			six = "2001:db8::201"
		}
	}
	data := ""
	if t.vx() {
		data = `,"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}`
		if six != "" {
			data = `,"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}`
		}
	}
	return fmt.Sprintf(`{"PublicIP":%s,"PublicIPv6":%s,"BackendType":%q%s}`, quote(public), quote(six), t.kind(), data)
}

func (t *trial) valueAt(h *lab.Host) string { return t.value(h.Underlay(t.families()[0]).String()) }

func strange(entries func(*trial) []entry) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		for _, e := range entries(t) {
			if err := t.fabric.Etcd.Put(ctx, t.prefix+"/"+e.key, e.value); err != nil {
				return err
			}
		}
		return nil
	}
}

// named demands that all hosts are as they were, and that the host names the
// offenders.
func named(entries func(*trial) []entry) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		if err := namedHere(entries)(ctx, t); err != nil {
			return err
		}
		for i, eye := range t.eyes {
			now, err := eye.look(ctx)
			if err != nil {
				return err
			}
			if diff := t.before[i].difference(now); len(diff) > 0 {
				return fmt.Errorf("%s believes it:\n%s", eye.host.Name, tell(diff))
			}
		}
		return nil
	}
}

// namedHere demands that the host is as it was, and that each offender that
// could be taken for a lease is named in its status: others may have nothing
// against it.
func namedHere(entries func(*trial) []entry) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		out, err := t.host.Flannelctl(ctx, "status", "-o", "json")
		if err != nil {
			return err
		}
		out = strings.NewReplacer(`\u0026`, "&").Replace(out)
		for _, e := range entries(t) {
			word := strings.TrimPrefix(strings.TrimPrefix(e.key, "subnets/"), "ng/claims/")
			prefix, _ := lastDash(word)
			if strings.HasPrefix(e.key, "subnets/") && !strings.Contains(out, word) && !strings.Contains(out, prefix) {
				return fmt.Errorf("status of %s does not name %s", t.host.Name, e.key)
			}
		}
		return t.asBefore(ctx, func(string) bool { return false })
	}
}

// lastDash writes a subnet of a key as people do: the part after "&" of an
// IPv6-only one, with a slash.
func lastDash(word string) (string, bool) {
	if _, six, ok := strings.Cut(word, "&"); ok {
		word = six
	}
	i := strings.LastIndex(word, "-")
	if i < 0 {
		return word, false
	}
	return word[:i] + "/" + word[i+1:], true
}

func cleared(entries func(*trial) []entry) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		for _, e := range entries(t) {
			if err := t.fabric.Etcd.Delete(ctx, t.prefix+"/"+e.key); err != nil {
				return err
			}
		}
		return nil
	}
}

// note keeps the host's lease as it is.
func (t *trial) note(ctx context.Context) error {
	key, value, err := t.lease(ctx, t.host)
	t.keep["key"], t.keep["value"] = key, value
	return err
}

func leaseDeleted(ctx context.Context, t *trial) error {
	if err := t.note(ctx); err != nil {
		return err
	}
	t.now()
	return t.fabric.Etcd.Delete(ctx, t.keep["key"])
}

func leaseRevoked(ctx context.Context, t *trial) error {
	if err := t.note(ctx); err != nil {
		return err
	}
	resp, err := t.fabric.Etcd.Client.Get(ctx, t.keep["key"])
	if err != nil || len(resp.Kvs) != 1 {
		return fmt.Errorf("read %s: %w", t.keep["key"], errors.Join(err, errNoLease))
	}
	t.now()
	_, err = t.fabric.Etcd.Client.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
	return err
}

var errNoLease = errors.New("not one key")

// leaseAltered writes another MAC, or backend, into the lease and leaves all
// else: whose it is, and its etcd lease.
func leaseAltered(ctx context.Context, t *trial) error {
	if err := t.note(ctx); err != nil {
		return err
	}
	altered := regexp.MustCompile(`"VtepMAC":"[^"]*"`).ReplaceAllString(t.keep["value"], `"VtepMAC":"02:00:00:00:00:97"`)
	if !t.vx() {
		// The last of two words counts; a lease of udp names no backend.
		altered = strings.TrimSuffix(altered, "}") + `,"BackendType":"another"}`
	}
	if altered == t.keep["value"] {
		return fmt.Errorf("nothing to alter in %s", altered)
	}
	t.now()
	_, err := t.fabric.Etcd.Client.Put(ctx, t.keep["key"], altered, clientv3.WithIgnoreLease())
	return err
}

// leaseGarbled makes the lease unreadable, and leaves all else.
func leaseGarbled(ctx context.Context, t *trial) error {
	if err := t.note(ctx); err != nil {
		return err
	}
	t.now()
	_, err := t.fabric.Etcd.Client.Put(ctx, t.keep["key"], `{"PublicIP":`, clientv3.WithIgnoreLease())
	return err
}

// leaseBack demands the lease as it was, and all hosts, too.
func leaseBack(ctx context.Context, t *trial) error {
	resp, err := t.fabric.Etcd.Client.Get(ctx, t.keep["key"])
	switch {
	case err != nil:
		return err
	case len(resp.Kvs) != 1:
		return fmt.Errorf("no %s", t.keep["key"])
	case string(resp.Kvs[0].Value) != t.keep["value"]:
		return fmt.Errorf("%s is %s, not %s", t.keep["key"], resp.Kvs[0].Value, t.keep["value"])
	case resp.Kvs[0].Lease == 0:
		return fmt.Errorf("%s never expires", t.keep["key"])
	}
	return t.everywhere(ctx)
}

// leaseTaken overwrites the lease as a plain flannel does that believes it free.
func leaseTaken(ctx context.Context, t *trial) error {
	if err := t.note(ctx); err != nil {
		return err
	}
	resp, err := t.fabric.Etcd.Client.Grant(ctx, 3600)
	if err != nil {
		return err
	}
	t.now()
	_, err = t.fabric.Etcd.Client.Put(ctx, t.keep["key"], t.value(t.nowhereAt().String()), clientv3.WithLease(resp.ID))
	return err
}

// yielded demands that the host lets go: its subnet file is withdrawn, the
// store's new word stands, and the host's own containers are left alone.
func yielded(ctx context.Context, t *trial) error {
	now, err := t.eye.look(ctx)
	if err != nil {
		return err
	}
	bridge := 0
	for _, line := range now {
		if strings.HasPrefix(line, "subnet.env ") {
			return fmt.Errorf("%s still has its subnet file", t.host.Name)
		}
		if strings.HasPrefix(line, "link cni0 ") || strings.HasPrefix(line, "address ") && strings.Contains(line, " dev cni0 ") {
			bridge++
		}
	}
	if bridge < 2 {
		return fmt.Errorf("%s lost its containers' bridge", t.host.Name)
	}
	_, value, err := t.keyNow(ctx)
	if err == nil && value != t.value(t.nowhereAt().String()) {
		err = fmt.Errorf("%s was overwritten: %s", t.keep["key"], value)
	}
	return err
}

func (t *trial) keyNow(ctx context.Context) (key, value string, err error) {
	resp, err := t.fabric.Etcd.Client.Get(ctx, t.keep["key"])
	if err != nil || len(resp.Kvs) != 1 {
		return "", "", fmt.Errorf("read %s: %w", t.keep["key"], errors.Join(err, errNoLease))
	}
	return t.keep["key"], string(resp.Kvs[0].Value), nil
}

// takerGone lets the taker leave; the host claims its subnet again.
func takerGone(ctx context.Context, t *trial) error {
	return t.fabric.Etcd.Delete(ctx, t.keep["key"])
}

// leavesMeanwhile lets a peer come, stops the daemon, lets the peer leave, and
// starts the daemon: no trace may be left.
func leavesMeanwhile(ctx context.Context, t *trial) error {
	guest := entry{"subnets/" + t.spare(21) + "-24", t.value("198.51.100.206")}
	if !strings.Contains(t.first(t.host), ".") {
		guest.key = "subnets/0.0.0.0-0&fc00:5:0:fffe::-64"
		guest.value = t.value("2001:db8::206")
	}
	one := func(*trial) []entry { return []entry{guest} }
	if err := strange(one)(ctx, t); err != nil {
		return err
	}
	wait, cancel := patiently(ctx)
	defer cancel()
	if err := poll(wait, func(ctx context.Context) error {
		if t.carrier == udp {
			return nil // the forwarder knows, the kernel does not
		}
		now, err := t.eye.look(ctx)
		if err == nil && now.equal(t.before[t.host.Index-1]) {
			err = fmt.Errorf("%s does not know %s", t.host.Name, guest.key)
		}
		return err
	}); err != nil {
		return err
	}
	if err := t.host.Stop(wait); err != nil {
		return err
	}
	if err := cleared(one)(ctx, t); err != nil {
		return err
	}
	t.now()
	if err := t.host.Start(context.WithoutCancel(ctx), "--ip-masq"); err != nil {
		return err
	}
	return t.host.WaitReady(wait)
}

// leaving is the name of the fault that restarts a daemon.
const leaving = "peer leaves while we are down"
