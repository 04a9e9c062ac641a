package options_test

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/options"
)

func TestEmbedded(t *testing.T) {
	o := parse(t, strings.Fields(`--etcd-embedded --etcd-embedded-dir=/data --etcd-embedded-name=h1 --etcd-embedded-listen=192.0.2.1
		--etcd-embedded-cluster=h1=192.0.2.1,,h2=2001:db8::2 --etcd-embedded-certfile=/c --etcd-embedded-keyfile=/k
		--etcd-embedded-cafile=/ca --etcd-embedded-seed=/s --etcd-embedded-quota=64`), nil)
	want := options.Embedded{
		Enabled: true, Dir: "/data", Name: "h1", Listen: netip.MustParseAddr("192.0.2.1"),
		Cluster: []options.EtcdMember{
			{Name: "h1", Address: netip.MustParseAddr("192.0.2.1")}, {Name: "h2", Address: netip.MustParseAddr("2001:db8::2")},
		},
		CertFile: "/c", KeyFile: "/k", CAFile: "/ca", Seed: "/s", QuotaMiB: 64,
	}
	if !reflect.DeepEqual(o.Embedded, want) {
		t.Errorf("got %+v\nwant %+v", o.Embedded, want)
	}
	wantEtcd := options.Etcd{
		Endpoints: []string{"https://127.0.0.1:2379"}, Prefix: "/coreos.com/network", CAFile: "/ca", CertFile: "/c", KeyFile: "/k",
	}
	if !reflect.DeepEqual(o.Etcd, wantEtcd) {
		t.Errorf("the daemon's own store: got %+v\nwant %+v", o.Etcd, wantEtcd)
	}
	if len(o.Warnings) > 0 {
		t.Errorf("warnings %q", o.Warnings)
	}
}

func TestEmbeddedEndpoints(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string
		dir  string
	}{
		{"--etcd-embedded", []string{"http://127.0.0.1:2379"}, "/var/lib/flannel/subnet/etcd"},
		{"--etcd-embedded --state-dir=/x", []string{"http://127.0.0.1:2379"}, "/x/etcd"},
		{"--etcd-embedded --etcd-endpoints=http://192.0.2.9:2379", []string{"http://192.0.2.9:2379"}, "/var/lib/flannel/subnet/etcd"},
		{
			"--etcd-embedded --etcd-embedded-join=http://192.0.2.1:2379,192.0.2.2:2379 --etcd-embedded-listen=192.0.2.4 --etcd-embedded-plaintext",
			[]string{"http://127.0.0.1:2379"},
			"/var/lib/flannel/subnet/etcd",
		},
		{"--etcd-embedded --etcd-embedded-listen=127.0.0.7", []string{"http://127.0.0.1:2379"}, "/var/lib/flannel/subnet/etcd"},
	} {
		o := parse(t, strings.Fields(tt.args), nil)
		if !slices.Equal(o.Etcd.Endpoints, tt.want) || o.Embedded.Dir != tt.dir || len(o.Warnings) > 0 {
			t.Errorf("%s: endpoints %q, directory %s, warnings %q", tt.args, o.Etcd.Endpoints, o.Embedded.Dir, o.Warnings)
		}
	}
}

func TestEmbeddedWarnings(t *testing.T) {
	const tls = "--etcd-embedded --etcd-embedded-listen=192.0.2.1 --etcd-embedded-certfile=/c --etcd-embedded-keyfile=/k "
	for _, tt := range []struct{ args, want string }{
		{"--etcd-embedded-dir=/x", "--etcd-embedded-dir has no effect without --etcd-embedded"},
		{"--etcd-embedded-listen=192.0.2.1", "--etcd-embedded-listen has no effect without --etcd-embedded"},
		{"--etcd-embedded --allow-extension", "every user of this host"},
		{tls + "--etcd-embedded-plaintext", "everybody who reaches this host can change the store"},
		{tls + "--etcd-embedded-cafile=/ca --etcd-embedded-plaintext", "--etcd-embedded-plaintext has no effect"},
	} {
		o := parse(t, strings.Fields(tt.args), nil)
		if len(o.Warnings) != 1 || !strings.Contains(o.Warnings[0], tt.want) {
			t.Errorf("%s: warnings %q, want %s", tt.args, o.Warnings, tt.want)
		}
	}
}

func TestEmbeddedErrors(t *testing.T) {
	const on = "--etcd-embedded "
	const secure = "--etcd-embedded-listen=192.0.2.4 --etcd-embedded-certfile=/c --etcd-embedded-keyfile=/k"
	for _, tt := range []struct{ args, want string }{
		{on + "--etcd-embedded-listen=192.0.2.1", "--etcd-embedded-keyfile and --etcd-embedded-cafile (docs/embedded-etcd.md shows how to make them); or"},
		{on + "--etcd-embedded-listen=192.0.2.1", "--etcd-embedded-plaintext"},
		{on + "--etcd-embedded-cluster=a=192.0.2.1,b=192.0.2.2", "--etcd-embedded-cluster beyond loopback needs TLS"},
		{on + "--etcd-embedded-join=http://192.0.2.1:2379 --etcd-embedded-cluster=a=127.0.0.1", "give one of them; a member either joins"},
		{on + "--etcd-embedded-join=http://192.0.2.1:2379", "needs --etcd-embedded-listen"},
		{on + secure, "--etcd-embedded-listen beyond loopback needs --etcd-embedded-cafile"},
		{on + secure + " --etcd-embedded-join=http://192.0.2.1:2379", "must be https://"},
		{
			on + "--etcd-embedded-listen=192.0.2.4 --etcd-embedded-plaintext --etcd-embedded-join=https://192.0.2.1:2379",
			"needs --etcd-embedded-certfile",
		},
		{
			on + "--etcd-embedded-listen=127.0.0.1 --etcd-embedded-join=192.0.2.1:2379",
			"another --etcd-embedded-listen than 127.0.0.1",
		},
		{on + "--kube-subnet-mgr", "--etcd-embedded and --kube-subnet-mgr: give one of them"},
		{on + "--etcd-embedded-certfile=/c", "--etcd-embedded-certfile and --etcd-embedded-keyfile: must be given together"},
		{on + "--etcd-embedded-cafile=/ca", "--etcd-embedded-cafile: needs --etcd-embedded-certfile"},
		{"--etcd-embedded-listen=0.0.0.0", `--etcd-embedded-listen "0.0.0.0": must be an address of this host that others reach`},
		{"--etcd-embedded-listen=fe80::1", "must be an address of this host"},
		{"--etcd-embedded-listen=h1", "must be an IP address"},
		{"--etcd-embedded-name=a=b", "must consist of letters"},
		{"--etcd-embedded-quota=8", `--etcd-embedded-quota "8": must be 16..8192`},
		{"--etcd-embedded-cluster=192.0.2.1", "must list NAME=IP"},
		{"--etcd-embedded-cluster=a=", "must list NAME=IP"},
		{"--etcd-embedded-cluster=a=x", "address of a must be an IP address"},
		{"--etcd-embedded-cluster=a/b=192.0.2.1", `name "a/b" must consist of`},
		{"--etcd-embedded-cluster=a=192.0.2.1,a=192.0.2.2", "a=192.0.2.2: each member needs a name and an address of its own"},
		{"--etcd-embedded-cluster=a=192.0.2.1,b=192.0.2.1", "each member needs"},
		{"--etcd-embedded-join=ftp://192.0.2.1", "must be URLs such as"},
	} {
		_, err := options.Parse(strings.Fields(tt.args), nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s", tt.args, err, tt.want)
		}
	}
}
