// Package options reads what the command line and the environment tell
// flanneld. One table has every flag with its type, default and meaning; it
// drives parsing, the environment, --help and docs/configuration.md.
//
// It owns names, defaults and rules. It follows the links of one directory, and
// never reads the process's environment or a file, never logs and never exits: cmd/flanneld calls Parse, the daemon
// uses the result.
package options

import (
	"log/slog"
	"net/netip"
	"regexp"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

//go:generate go run ./docgen ../../docs/configuration.md

// Options are checked values with their units in their types. The flag that a
// field comes from is in its comment.
type Options struct {
	Etcd     Etcd
	Embedded Embedded
	Kube     Kube

	Iface         []string                  // iface: names or addresses, in order
	IfaceRegex    []*regexp.Regexp          // iface-regex, in order
	IfaceCanReach netip.Addr                // iface-can-reach; zero: not given
	Public        addr.ByFamily[netip.Addr] // public-ip, public-ipv6; zero: not given

	SubnetFile     string // subnet-file, absolute, its directory without symbolic links
	StateDir       string // state-dir, absolute
	ControlSocket  string // control-socket, absolute
	RenewMargin    time.Duration
	LostLeaseGrace time.Duration
	CleanupOnExit  bool // cleanup-on-exit

	IPMasq       bool
	RandomFully  bool          // not ip-masq-fully-random-disable
	ForwardRules bool          // iptables-forward-rules
	Resync       time.Duration // iptables-resync
	Blackhole    bool          // ip-blackhole-route
	Classic      bool          // classic-routes

	TakeOver       bool // take-over
	AllowExtension bool // allow-extension

	Healthz netip.AddrPort // healthz-ip, healthz-port; port 0: off

	LogLevel  slog.Level // v
	LogFormat Format
	DryRun    bool
	Version   bool // print the version and do nothing else

	// Warnings are for the log, once it is open: settings without effect.
	Warnings []string

	settings []Setting
}

// Etcd says where the store is and who we are to it.
type Etcd struct {
	Endpoints []string // URLs or host:port
	Prefix    string   // of all keys, without a slash at the end; "" is the root
	CAFile    string
	CertFile  string
	KeyFile   string
	Username  string
	Password  Secret
}

// Embedded says whether and how this host runs a member of the store itself.
type Embedded struct {
	Enabled   bool         // etcd-embedded
	Dir       string       // etcd-embedded-dir, absolute; "": etcd in the state directory
	Name      string       // etcd-embedded-name; "": the host name
	Listen    netip.Addr   // etcd-embedded-listen: reachable by other hosts; zero: loopback only
	Cluster   []EtcdMember // etcd-embedded-cluster: members of a new cluster; empty: this one alone
	Join      []string     // etcd-embedded-join: client URLs of a running cluster
	CertFile  string       // etcd-embedded-certfile, for clients and members
	KeyFile   string       // etcd-embedded-keyfile
	CAFile    string       // etcd-embedded-cafile: clients and members must show a certificate of it
	Plaintext bool         // etcd-embedded-plaintext: allows no TLS beyond loopback
	Seed      string       // etcd-embedded-seed: file with the network config of an empty store
	QuotaMiB  int          // etcd-embedded-quota
}

// EtcdMember is one initial member of an embedded cluster.
type EtcdMember struct {
	Name    string
	Address netip.Addr
}

// Kube says how leases come from Kubernetes.
type Kube struct {
	SubnetMgr                 bool
	APIURL                    string
	Kubeconfig                string
	AnnotationPrefix          string
	NetConfigPath             string
	SetNodeNetworkUnavailable bool
}

// Format is how log lines look.
type Format string

// The log formats.
const (
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Setting is a value that somebody set.
type Setting struct {
	Name   string // of the flag, without dashes
	Value  string // as given; a secret is not shown
	Origin Origin
}

// Origin says where a setting comes from.
type Origin string

// The origins.
const (
	FromFlag        Origin = "command line"
	FromEnvironment Origin = "environment"
)

// Effective lists the settings that differ from their defaults, in the order
// of the documentation.
func (o Options) Effective() []Setting { return o.settings }

// LogAttrs says the same as Effective for a log line.
func (o Options) LogAttrs() []slog.Attr {
	var out []slog.Attr
	for _, s := range o.settings {
		value := s.Value
		if s.Origin == FromEnvironment {
			value += " (" + string(s.Origin) + ")"
		}
		out = append(out, slog.String(s.Name, value))
	}
	return out
}

// LogValue implements slog.LogValuer.
func (o Options) LogValue() slog.Value { return slog.GroupValue(o.LogAttrs()...) }
