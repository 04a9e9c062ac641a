package backendtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// UpdateVariable names the environment variable that makes Golden rewrite its
// files. Review the diff.
const UpdateVariable = "UPDATE_GOLDEN"

// Golden runs every testdata/*.txtar. An archive has the files
//
//	config  network config JSON
//	node    the host, as JSON (see nodeText)
//	self    own lease, peer-*  leases of peers, as JSON (see leaseText)
//	want    expected offer, local state and state per peer
func Golden(t *testing.T, newBackend New) {
	t.Helper()
	update := os.Getenv(UpdateVariable) != "" //nolint:forbidigo // a switch for developers
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no testdata/*.txtar: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { golden(t, newBackend, path, update) })
	}
}

func golden(t *testing.T, newBackend New, path string, update bool) {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := render(t, newBackend, archive)
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
	if i < 0 {
		t.Fatal("no file named want")
	}
	if string(archive.Files[i].Data) == got {
		return
	}
	if !update {
		t.Fatalf("want\n%s\ngot\n%s", archive.Files[i].Data, got)
	}
	archive.Files[i].Data = []byte(got)
	if err := os.WriteFile(path, txtar.Format(archive), 0o600); err != nil {
		t.Fatal(err)
	}
}

func render(t *testing.T, newBackend New, archive *txtar.Archive) string {
	t.Helper()
	files := map[string][]byte{}
	for _, f := range archive.Files {
		files[f.Name] = f.Data
	}
	network, err := config.Parse(files["config"])
	if err != nil {
		t.Fatal(err)
	}
	b, node, self := newBackend(t, network), parseNode(t, files["node"]), parseLease(t, "self", files["self"])
	var out strings.Builder
	offer, err := b.Offer(node, &self)
	fmt.Fprintf(&out, "offer %s v4=%s v6=%s err=%v\n", offer.Backend, offer.Data.At(addr.IPv4), offer.Data.At(addr.IPv6), err)
	self.Offer = offer
	local, err := b.Local(self, node)
	fmt.Fprintf(&out, "local mtu=%d err=%v\n", local.MTU, err)
	write(&out, local)
	for _, f := range archive.Files {
		if strings.HasPrefix(f.Name, "peer-") {
			p := parseLease(t, f.Name, f.Data)
			s, err := b.Peer(self, node, p, p.Offer)
			fmt.Fprintf(&out, "%s err=%v\n", f.Name, err)
			write(&out, s)
		}
	}
	return out.String()
}

func write(out *strings.Builder, s state.Set) {
	for o := range s.Objects() {
		fmt.Fprintf(out, "  %s\n", o)
	}
}

type nodeText struct {
	HostID         string
	MTU            int
	Source, Public []netip.Addr
	OnLink         []netip.Prefix // networks on eth0
	Routes         []facts.Route  // further ones
	Links          []facts.Link
}

func parseNode(t *testing.T, data []byte) facts.Node {
	t.Helper()
	var in nodeText
	if err := json.Unmarshal(data, &in); err != nil {
		t.Fatalf("node: %v", err)
	}
	uplink := facts.Link{Name: "eth0", Index: 2, MTU: in.MTU, Up: true}
	n := facts.Node{HostID: in.HostID, Uplink: uplink, Links: append(in.Links, uplink)}
	for _, a := range in.Source {
		n.Source.Put(addr.Of(a), a)
		n.Public.Put(addr.Of(a), a)
	}
	for _, a := range in.Public {
		n.Public.Put(addr.Of(a), a)
	}
	n.Routes = in.Routes
	for _, p := range in.OnLink {
		n.Routes = append(n.Routes, facts.Route{Dst: p, Link: "eth0"})
	}
	for _, f := range addr.Families() {
		any0 := netip.PrefixFrom(addr.Pair(netip.IPv4Unspecified(), netip.IPv6Unspecified()).At(f), 0)
		n.Routes = append(n.Routes, facts.Route{Dst: any0, Link: "eth0", Via: any0.Addr().Next()})
	}
	return n
}

type leaseText struct {
	Subnets []netip.Prefix
	Public  []netip.Addr
	Backend string
	Owner   string
	V4, V6  json.RawMessage
}

func parseLease(t *testing.T, key string, data []byte) lease.Lease {
	t.Helper()
	var in leaseText
	if err := json.Unmarshal(data, &in); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	l := lease.Lease{Key: key, Owner: in.Owner, Offer: lease.Offer{Backend: in.Backend, Data: addr.Pair(string(in.V4), string(in.V6))}}
	for _, p := range in.Subnets {
		l.Subnets.Put(addr.Of(p.Addr()), p)
	}
	for _, a := range in.Public {
		l.Public.Put(addr.Of(a), a)
	}
	return l
}
