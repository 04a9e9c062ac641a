// Package embedded runs a member of etcd inside flanneld, so that hosts need no
// store beside it.
//
// It owns the member's data directory, its ports and its place in the cluster:
// it joins, is promoted, and puts a first network config into an empty store.
// It never reads or writes leases (internal/store/etcd does, as with any etcd),
// and never removes a member or data. Called by the daemon; flannelctl uses
// Snapshot, Restore and the admin of members.
package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/server/v3/storage/wal"
)

// The ports of a member, registered for etcd.
const (
	ClientPort uint16 = 2379
	PeerPort   uint16 = 2380
)

// Config says what member to run.
type Config struct {
	Dir  string // data directory; made with mode 0700 if absent
	Name string // unique in the cluster
	// Listen is where other hosts reach the member; zero is nowhere. Clients of
	// this host reach it on 127.0.0.1 always.
	Listen netip.Addr
	// Cluster are all members of a new cluster, this one among them; empty is
	// this one alone. Join are client URLs of a running cluster. Neither counts
	// once Dir has data.
	Cluster []Peer
	Join    []string
	TLS     Files
	Quota   int64  // bytes
	Prefix  string // of the fabric's keys, without a slash at the end
	Seed    []byte // network config for an empty store
	Log     *slog.Logger

	// Ports for tests that run several members in one network; zero are the
	// usual ones.
	ClientPort, PeerPort uint16
}

// Peer is a member of a new cluster.
type Peer struct {
	Name string
	At   netip.AddrPort // for members; port 0 is PeerPort
}

// Files are PEM files for TLS, for clients and members alike. With a CA both
// must show a certificate.
type Files struct{ Cert, Key, CA string }

var (
	errNotListed  = errors.New("this member is not in its own cluster")
	errListenElse = errors.New("two addresses for this member")
	errForeignDir = errors.New("it holds other things than the data of a member")
)

// complete fills in defaults and checks what must fit together.
func (c Config) complete() (Config, error) {
	c.ClientPort, c.PeerPort = cmp.Or(c.ClientPort, ClientPort), cmp.Or(c.PeerPort, PeerPort)
	if len(c.Seed) == 0 {
		c.Seed = []byte(DefaultSeed)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Cluster = slices.Clone(c.Cluster)
	for i, p := range c.Cluster {
		c.Cluster[i].At = netip.AddrPortFrom(p.At.Addr(), cmp.Or(p.At.Port(), PeerPort))
	}
	if len(c.Cluster) == 0 {
		return c, nil
	}
	i := slices.IndexFunc(c.Cluster, func(p Peer) bool { return p.Name == c.Name })
	if i < 0 {
		return c, fmt.Errorf("%w: %q is not among %s: give this host's name in --etcd-embedded-cluster, or --etcd-embedded-name",
			errNotListed, c.Name, names(c.Cluster))
	}
	own := c.Cluster[i].At.Addr()
	if c.Listen.IsValid() && c.Listen != own {
		return c, fmt.Errorf("%w: --etcd-embedded-listen says %s, --etcd-embedded-cluster says %s", errListenElse, c.Listen, own)
	}
	c.Listen = own
	return c, nil
}

func names(peers []Peer) string {
	var out []string
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return strings.Join(out, ", ")
}

// filled says whether the directory holds a member already.
func (c Config) filled() bool { return wal.Exist(WALDir(c.Dir)) }

func (c Config) scheme() string {
	if c.TLS.Cert != "" {
		return "https"
	}
	return "http"
}

func (c Config) url(a netip.Addr, port uint16) url.URL {
	return url.URL{Scheme: c.scheme(), Host: net.JoinHostPort(a.String(), strconv.Itoa(int(port)))}
}

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// address is where others reach the member, or would.
func (c Config) address() netip.Addr {
	if c.Listen.IsValid() {
		return c.Listen
	}
	return loopback()
}

// addresses are where the member is reached.
func (c Config) addresses() []netip.Addr {
	if a := c.address(); a != loopback() {
		return []netip.Addr{loopback(), a}
	}
	return []netip.Addr{loopback()}
}

// clientURLs are served: on loopback always, the own daemon relies on it.
func (c Config) clientURLs() []url.URL {
	var urls []url.URL
	for _, a := range c.addresses() {
		urls = append(urls, c.url(a, c.ClientPort))
	}
	return urls
}

func (c Config) peerURL() url.URL { return c.url(c.address(), c.PeerPort) }

// initialCluster is etcd's NAME=URL list of a new cluster.
func (c Config) initialCluster() string {
	if len(c.Cluster) == 0 {
		u := c.peerURL()
		return c.Name + "=" + u.String()
	}
	var out []string
	for _, p := range c.Cluster {
		u := c.url(p.At.Addr(), p.At.Port())
		out = append(out, p.Name+"="+u.String())
	}
	return strings.Join(out, ",")
}

// makeDir makes the data directory; what is in it is for root alone. One that
// holds something else, /var/lib for example, is not ours to close to others.
func (c Config) makeDir() error {
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory of the embedded etcd: %w", err)
	}
	member := func(e fs.DirEntry) bool { return e.Name() == "member" }
	other := func(e fs.DirEntry) bool { return e.Name() != "lost+found" && e.Name() != ".touch" } // of a disk, of etcd
	if slices.ContainsFunc(entries, other) && !slices.ContainsFunc(entries, member) {
		return fmt.Errorf("--etcd-embedded-dir %s: %w: give a directory that does not exist yet", c.Dir, errForeignDir)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("data directory of the embedded etcd: %w", err)
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil {
		return fmt.Errorf("data directory of the embedded etcd: %w", err)
	}
	return nil
}
