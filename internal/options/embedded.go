package options

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	embeddedFlag   = "etcd-embedded"
	ownMember      = "127.0.0.1:2379" // where clients of this host reach the member
	defaultServers = "http://127.0.0.1:4001,http://127.0.0.1:2379"
)

// The bounds of the quota: less than the first is full at once, more than the
// second is more than etcd is made for.
const (
	minQuotaMiB = 16
	maxQuotaMiB = 8192
)

func embeddedRows() []row {
	return []row{
		{
			name: embeddedFlag, kind: boolean, preset: "false",
			doc: "run a member of etcd in this process: no other etcd is needed; see docs/embedded-etcd.md",
			set: into(yesNo, func(o *Options) *bool { return &o.Embedded.Enabled }),
		},
		{
			name: embeddedFlag + "-dir", kind: "path", doc: "data directory of the member; default: etcd in the state directory",
			set: into(absolute, func(o *Options) *string { return &o.Embedded.Dir }),
		},
		{
			name: embeddedFlag + "-name", kind: "name", doc: "name of the member, unique in its cluster; default: the host name",
			set: into(memberName, func(o *Options) *string { return &o.Embedded.Name }),
		},
		{
			name: embeddedFlag + "-listen", kind: "IP address",
			doc: "address where other hosts reach this member: port 2379 for clients, 2380 for members; default: loopback only",
			set: into(hostAddress, func(o *Options) *netip.Addr { return &o.Embedded.Listen }),
		},
		{
			name: embeddedFlag + "-cluster", kind: "NAME=IP,…",
			doc: "all members of a new cluster, the same list on each; default: this one alone. Without effect once the data directory is filled",
			set: into(members, func(o *Options) *[]EtcdMember { return &o.Embedded.Cluster }),
		},
		{
			name: embeddedFlag + "-join", kind: "list of URLs",
			doc: "client URLs of a running cluster, to become a member of it. Without effect once the data directory is filled",
			set: into(joinURLs, func(o *Options) *[]string { return &o.Embedded.Join }),
		},
		{
			name: embeddedFlag + "-certfile", kind: "path",
			doc: "certificate of this host, shown to clients and members; must be valid for its address and for 127.0.0.1",
			set: into(absolute, func(o *Options) *string { return &o.Embedded.CertFile }),
		},
		{
			name: embeddedFlag + "-keyfile", kind: "path", doc: "key of that certificate",
			set: into(absolute, func(o *Options) *string { return &o.Embedded.KeyFile }),
		},
		{
			name: embeddedFlag + "-cafile", kind: "path", doc: "CA of which clients and members must show a certificate",
			set: into(absolute, func(o *Options) *string { return &o.Embedded.CAFile }),
		},
		{
			name: embeddedFlag + "-plaintext", kind: boolean, preset: "false",
			doc: "allow other hosts to reach this member without TLS, or without a certificate: who can reach it can then change the fabric",
			set: into(yesNo, func(o *Options) *bool { return &o.Embedded.Plaintext }),
		},
		{
			name: embeddedFlag + "-seed", kind: "path",
			doc: `file with the network config that an empty store gets; default: {"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`,
			set: into(absolute, func(o *Options) *string { return &o.Embedded.Seed }),
		},
		{
			name: embeddedFlag + "-quota", kind: "MiB, 16 to 8192", preset: "512",
			doc: "how large the store may become; then it refuses writes",
			set: into(quota, func(o *Options) *int { return &o.Embedded.QuotaMiB }),
		},
	}
}

func quota(s string) (int, error) {
	n, err := whole(s, minQuotaMiB, maxQuotaMiB)
	return int(n), err
}

// memberName is text that survives etcd's NAME=URL lists.
func memberName(s string) (string, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9._-]*$`).MatchString(s) {
		return "", errors.New("must consist of letters, digits, dots, dashes and underscores")
	}
	return s, nil
}

// hostAddress is an address that can be both listened on and told to others.
func hostAddress(s string) (netip.Addr, error) {
	a, err := anyIP(s)
	switch {
	case err != nil:
		return a, err
	case a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast()):
		return netip.Addr{}, errors.New("must be an address of this host that others reach, such as 192.0.2.1")
	}
	return a, nil
}

func members(s string) ([]EtcdMember, error) {
	var out []EtcdMember
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, at, ok := strings.Cut(part, "=")
		if !ok || name == "" || at == "" {
			return nil, errors.New("must list NAME=IP, as in h1=192.0.2.1,h2=192.0.2.2,h3=192.0.2.3")
		}
		if _, err := memberName(name); err != nil {
			return nil, fmt.Errorf("name %q %w", name, err)
		}
		a, err := hostAddress(at)
		if err != nil {
			return nil, fmt.Errorf("address of %s %w", name, err)
		}
		m := EtcdMember{Name: name, Address: a}
		if slices.ContainsFunc(out, func(o EtcdMember) bool { return o.Name == m.Name || o.Address == m.Address }) {
			return nil, fmt.Errorf("%s: each member needs a name and an address of its own", part)
		}
		out = append(out, m)
	}
	return out, nil
}

func joinURLs(s string) ([]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	return endpoints(s)
}

// finishEmbedded checks what must fit together, and has the daemon use its own
// member if it was told no other server.
func (p *parser) finishEmbedded() {
	e := &p.out.Embedded
	if !e.Enabled {
		for _, s := range p.out.settings {
			if strings.HasPrefix(s.Name, embeddedFlag+"-") {
				p.warnf("--%s has no effect without --%s", s.Name, embeddedFlag)
			}
		}
		return
	}
	if e.Dir == "" {
		e.Dir = filepath.Join(p.out.StateDir, "etcd")
	}
	p.refuseEmbedded()
	if slices.Equal(p.out.Etcd.Endpoints, strings.Split(defaultServers, ",")) {
		p.ownMember()
	}
}

func (p *parser) refuseEmbedded() {
	e := &p.out.Embedded
	if p.out.Kube.SubnetMgr {
		p.refuse("--etcd-embedded and --kube-subnet-mgr: give one of them, leases are in etcd or in Kubernetes")
	}
	if len(e.Join) > 0 && len(e.Cluster) > 0 {
		p.refuse("--etcd-embedded-join and --etcd-embedded-cluster: give one of them; a member either joins a running cluster or starts a new one")
	}
	if len(e.Join) > 0 && !e.Listen.IsValid() {
		p.refuse("--etcd-embedded-join: needs --etcd-embedded-listen, the address where the other members reach this one")
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		p.refuse("--etcd-embedded-certfile and --etcd-embedded-keyfile: must be given together")
	}
	if e.CAFile != "" && e.CertFile == "" {
		p.refuse("--etcd-embedded-cafile: needs --etcd-embedded-certfile and --etcd-embedded-keyfile")
	}
	p.refuseJoin()
	if p.out.AllowExtension && e.CertFile == "" {
		p.warnf("--allow-extension and --etcd-embedded without TLS: every user of this host, and every container in its network " +
			"namespace, can write the network config and so run anything as root here; give --etcd-embedded-certfile, -keyfile and -cafile")
	}
	far := e.beyondLoopback()
	switch secure, open := e.CertFile != "", far != ""; {
	case secure && open && e.CAFile == "" && !e.Plaintext:
		p.refuse("--etcd-embedded-" + far + " beyond loopback needs --etcd-embedded-cafile: without it everybody who reaches this host " +
			"can change the store; where every host is trusted, give --etcd-embedded-plaintext, too")
	case secure && e.Plaintext && e.CAFile != "":
		p.warnf("--etcd-embedded-plaintext has no effect with --etcd-embedded-certfile: TLS is used")
	case !secure && open && !e.Plaintext:
		p.refuse(fmt.Sprintf("--etcd-embedded-%s beyond loopback needs TLS: give --etcd-embedded-certfile, --etcd-embedded-keyfile "+
			"and --etcd-embedded-cafile (docs/embedded-etcd.md shows how to make them); or, on a network where every host is trusted, "+
			"--etcd-embedded-plaintext", far))
	case secure && open && e.CAFile == "":
		p.warnf("without --etcd-embedded-cafile everybody who reaches this host can change the store")
	}
}

// refuseJoin finds a way in that speaks otherwise than the members, and a member
// that would be added where the others find themselves.
func (p *parser) refuseJoin() {
	e := &p.out.Embedded
	for _, at := range e.Join {
		u, err := url.Parse(at)
		if err != nil || u.Host == "" { // host:port: as the certificates say
			u = &url.URL{Host: at}
		}
		host, err := netip.ParseAddr(u.Hostname())
		far := err != nil || !host.IsLoopback()
		switch {
		case u.Scheme == "http" && e.CertFile != "":
			p.refuse(fmt.Sprintf("--etcd-embedded-join %s: is without TLS, but --etcd-embedded-certfile is given: must be https://…", at))
		case u.Scheme == "https" && e.CertFile == "":
			p.refuse(fmt.Sprintf("--etcd-embedded-join %s: needs --etcd-embedded-certfile, -keyfile and -cafile", at))
		case far && e.Listen.IsLoopback():
			p.refuse(fmt.Sprintf("--etcd-embedded-join %s: needs another --etcd-embedded-listen than %s, "+
				"where other hosts find themselves", at, e.Listen))
		}
	}
}

// beyondLoopback names the setting that makes the member one for other hosts,
// too; "" if none does.
func (e Embedded) beyondLoopback() string {
	far := func(a netip.Addr) bool { return a.IsValid() && !a.IsLoopback() }
	switch {
	case far(e.Listen):
		return "listen"
	case slices.ContainsFunc(e.Cluster, func(m EtcdMember) bool { return far(m.Address) }):
		return "cluster"
	default:
		return ""
	}
}

// ownMember makes the member of this host the store that the daemon uses.
func (p *parser) ownMember() {
	o := &p.out
	o.Etcd.Endpoints = []string{"http://" + ownMember}
	if o.Embedded.CertFile == "" {
		return
	}
	o.Etcd.Endpoints = []string{"https://" + ownMember}
	o.Etcd.CAFile, o.Etcd.CertFile, o.Etcd.KeyFile = o.Embedded.CAFile, o.Embedded.CertFile, o.Embedded.KeyFile
}
