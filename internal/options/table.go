package options

import (
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// row is one flag.
type row struct {
	name   string
	kind   string // for people; boolean is also for the parser
	preset string // given to set if nobody says anything else; "" is not
	doc    string
	set    func(*Options, string) error // nil: accepted, without effect
	many   bool                         // may be repeated
	secret bool                         // the value is never shown
	// servers: URLs, or the same without a scheme.
	servers bool
	noEnv   bool // the environment variable has no effect
}

const boolean = "boolean"

// env is the name of the environment variable.
func (r row) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(r.name, "-", "_"))
}

const envPrefix = "FLANNELD_"

// group is a part of the table, for the reader.
type group struct {
	title string
	rows  []row
}

// table is every flag of flanneld.
func table() []group {
	return []group{
		{"Lease store (etcd)", etcdRows()},
		{"Lease store in this process (embedded etcd)", embeddedRows()},
		{"Interface and addresses", uplinkRows()},
		{"Lease", leaseRows()},
		{"Files", fileRows()},
		{"Traffic", trafficRows()},
		{"Health, logs and information", surfaceRows()},
		{"Kubernetes (not in this build yet)", kubeRows()},
		{"Accepted for compatibility, without effect", klogRows()},
	}
}

func etcdRows() []row {
	return []row{
		{
			name: "etcd-endpoints", servers: true, kind: "list of URLs", preset: defaultServers,
			doc: "etcd servers, separated by commas; with etcd-embedded the default is the own member",
			set: into(endpoints, func(o *Options) *[]string { return &o.Etcd.Endpoints }),
		},
		{
			name: "etcd-prefix", kind: "key", preset: "/coreos.com/network", doc: "what all keys in etcd start with",
			set: into(keyPrefix, func(o *Options) *string { return &o.Etcd.Prefix }),
		},
		{
			name: "etcd-cafile", kind: "path", doc: "CA that signed the certificates of the etcd servers; honoured without a client certificate too",
			set: into(text, func(o *Options) *string { return &o.Etcd.CAFile }),
		},
		{
			name: "etcd-certfile", kind: "path", doc: "client certificate; needs etcd-keyfile",
			set: into(text, func(o *Options) *string { return &o.Etcd.CertFile }),
		},
		{
			name: "etcd-keyfile", kind: "path", doc: "key of the client certificate; needs etcd-certfile",
			set: into(text, func(o *Options) *string { return &o.Etcd.KeyFile }),
		},
		{
			name: "etcd-username", kind: "text", doc: "user of etcd",
			set: into(text, func(o *Options) *string { return &o.Etcd.Username }),
		},
		{
			name: "etcd-password", kind: "text", doc: "password of that user; better given by the environment, where other users do not see it",
			secret: true, set: into(secret, func(o *Options) *Secret { return &o.Etcd.Password }),
		},
	}
}

func uplinkRows() []row {
	return []row{
		{
			name: "iface", kind: "name or address", many: true,
			doc: "interface for the traffic between hosts; the first that fits is taken",
			set: adding(text, func(o *Options) *[]string { return &o.Iface }),
		},
		{
			name: "iface-regex", kind: "regular expression", many: true,
			doc: "the same by an expression on addresses or names; tried after iface",
			set: adding(expression, ifaceRegex),
		},
		{
			name: "iface-can-reach", kind: "IP address", doc: "the same by the route to this address; tried last",
			set: into(anyIP, ifaceCanReach),
		},
		{
			name: "public-ip", kind: "IPv4 address", doc: "address that other hosts send to; default: that of the interface",
			set: publicIP(addr.IPv4),
		},
		{
			name: "public-ipv6", kind: "IPv6 address", doc: "the same for IPv6",
			set: publicIP(addr.IPv6),
		},
	}
}

func leaseRows() []row {
	return []row{
		{
			name: "subnet-lease-renew-margin", kind: "minutes, 1 to 1439", preset: "60",
			doc: "how long before its end the lease is renewed",
			set: into(count(time.Minute, 1, 1439), func(o *Options) *time.Duration { return &o.RenewMargin }),
		},
		{
			name: "lost-lease-grace", kind: "duration", preset: "10m",
			doc: "how long the traffic of running containers goes on after another host has taken the lease",
			set: into(duration, func(o *Options) *time.Duration { return &o.LostLeaseGrace }),
		},
		{
			name: "cleanup-on-exit", kind: boolean, preset: "false",
			doc: "on an orderly stop (SIGTERM, SIGINT) give the lease back and remove all that flanneld made on this host, within a minute; containers lose their network, and a restart is no longer unnoticed",
			set: into(yesNo, func(o *Options) *bool { return &o.CleanupOnExit }),
		},
	}
}

func fileRows() []row {
	return []row{
		{
			name: "subnet-file", kind: "path", preset: defaultSubnetFile,
			doc: "file that tells container runtimes their subnet; it also names the instance, if several run on one host",
			set: into(absolute, func(o *Options) *string { return &o.SubnetFile }),
		},
		{
			name: "state-dir", kind: "path",
			doc: "directory for what must outlive a reboot; default: the subnet file without .env, moved from /run to /var/lib, else with .state behind it",
			set: into(absolute, func(o *Options) *string { return &o.StateDir }),
		},
		{
			name: "control-socket", kind: "path", doc: "socket for flannelctl; default: the subnet file with .sock instead of .env",
			set: into(absolute, func(o *Options) *string { return &o.ControlSocket }),
		},
	}
}

func trafficRows() []row {
	return []row{
		{
			name: "ip-masq", kind: boolean, preset: "false", doc: "masquerade traffic that leaves the cluster network",
			set: into(yesNo, func(o *Options) *bool { return &o.IPMasq }),
		},
		{
			name: "ip-masq-fully-random-disable", kind: boolean, preset: "false", doc: "masquerade without fully random ports",
			set: into(not, func(o *Options) *bool { return &o.RandomFully }),
		},
		{
			name: "iptables-forward-rules", kind: boolean, preset: "true", doc: "accept forwarded traffic from and to the cluster network",
			set: into(yesNo, func(o *Options) *bool { return &o.ForwardRules }),
		},
		{
			name: "iptables-resync", kind: "seconds, from 1", preset: "5",
			doc: "how often the kernel is compared with what it should be, even if nothing seems to have changed; with some hundred peers or more their routes and neighbours every 8 s, with many thousands less often, at least every five minutes",
			set: into(count(time.Second, 1, maxCount), func(o *Options) *time.Duration { return &o.Resync }),
		},
		{
			name: "take-over", kind: boolean, preset: "false",
			doc: "replace routes inside the cluster network that another program left on the uplink, and that lead elsewhere than ours should",
			set: into(yesNo, func(o *Options) *bool { return &o.TakeOver }),
		},
		{
			name: "allow-extension", kind: boolean, preset: "false",
			doc: "let the network config name commands (backend extension): whoever may write it can then run anything as root on this host",
			set: into(yesNo, func(o *Options) *bool { return &o.AllowExtension }),
		},
		{
			name: "classic-routes", kind: boolean, preset: "false",
			doc: "make routes without nexthop objects, as on kernels before 5.3: for programs that cannot read them; slow with thousands of peers",
			set: into(yesNo, func(o *Options) *bool { return &o.Classic }),
		},
		{
			name: "ip-blackhole-route", kind: boolean, preset: "false", doc: "keep a blackhole route for this host's own subnets",
			set: into(yesNo, func(o *Options) *bool { return &o.Blackhole }),
		},
	}
}

func surfaceRows() []row {
	return []row{
		{name: "healthz-ip", kind: "IP address", preset: "0.0.0.0", doc: "address of the health port", set: healthzIP},
		{name: "healthz-port", kind: "port", preset: "0", doc: "port for /healthz, /readyz and /metrics; 0 is none", set: healthzPort},
		{
			name: "dry-run", kind: boolean, preset: "false", doc: "print what would be changed, change nothing, and end",
			set: into(yesNo, func(o *Options) *bool { return &o.DryRun }),
		},
		{
			name: "log-format", kind: "text or json", preset: string(FormatText), doc: "form of the log lines on standard error",
			set: into(logFormat, func(o *Options) *Format { return &o.LogFormat }),
		},
		{
			name: "v", kind: "number", preset: "0", doc: "verbosity; 4 and more also log details for debugging",
			set: into(verbosity, logLevel),
		},
		{
			name: "version", kind: boolean, preset: "false", doc: "print the version to standard error and end",
			noEnv: true, set: into(yesNo, func(o *Options) *bool { return &o.Version }),
		},
	}
}

func kubeRows() []row {
	return []row{
		{
			name: "kube-subnet-mgr", kind: boolean, preset: "false", doc: "take leases from Kubernetes instead of etcd",
			set: into(yesNo, func(o *Options) *bool { return &o.Kube.SubnetMgr }),
		},
		{
			name: "kube-api-url", servers: true, kind: "URL", doc: "API server; with kubeconfig-file empty too: that of the cluster we run in",
			set: into(text, func(o *Options) *string { return &o.Kube.APIURL }),
		},
		{
			name: "kubeconfig-file", kind: "path", doc: "credentials for the API server",
			set: into(text, func(o *Options) *string { return &o.Kube.Kubeconfig }),
		},
		{
			name: "kube-annotation-prefix", kind: "text", preset: "flannel.alpha.coreos.com", doc: "what the annotations of nodes start with",
			set: into(text, func(o *Options) *string { return &o.Kube.AnnotationPrefix }),
		},
		{
			name: "net-config-path", kind: "path", preset: "/etc/kube-flannel/net-conf.json", doc: "file with the network config",
			set: into(text, func(o *Options) *string { return &o.Kube.NetConfigPath }),
		},
		{
			name: "set-node-network-unavailable", kind: boolean, preset: "true", doc: "clear the node condition NetworkUnavailable once ready",
			set: into(yesNo, func(o *Options) *bool { return &o.Kube.SetNodeNetworkUnavailable }),
		},
	}
}

// klogRows are flags of the log library that flannel uses. Old unit files and
// manifests have them.
func klogRows() []row {
	const doc = "see v and log-format"
	var out []row
	for _, name := range []string{
		"vmodule", "log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "stderrthreshold",
	} {
		out = append(out, row{name: name, kind: "text", doc: doc, many: true})
	}
	for _, name := range []string{
		"logtostderr", "alsologtostderr", "add_dir_header", "one_output", "skip_headers", "skip_log_headers",
	} {
		out = append(out, row{name: name, kind: boolean, doc: doc})
	}
	return out
}
