package options_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func parse(t *testing.T, args, environ []string) options.Options {
	t.Helper()
	o, err := options.Parse(args, environ)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestDefaults(t *testing.T) {
	want := options.Options{
		Etcd: options.Etcd{
			Endpoints: []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}, Prefix: "/coreos.com/network",
		},
		Kube: options.Kube{
			AnnotationPrefix: "flannel.alpha.coreos.com", NetConfigPath: "/etc/kube-flannel/net-conf.json",
			SetNodeNetworkUnavailable: true,
		},
		Embedded:   options.Embedded{QuotaMiB: 512},
		SubnetFile: "/run/flannel/subnet.env", StateDir: "/var/lib/flannel/subnet", ControlSocket: "/run/flannel/subnet.sock",
		RenewMargin: time.Hour, LostLeaseGrace: 10 * time.Minute,
		RandomFully: true, ForwardRules: true, Resync: 5 * time.Second,
		Healthz:  netip.MustParseAddrPort("0.0.0.0:0"),
		LogLevel: slog.LevelInfo, LogFormat: options.FormatText,
	}
	if got := parse(t, nil, []string{"FLANNELD_IFACE=", "FLANNELD_IP_MASQ=", "HOME=/root"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestEveryFlag(t *testing.T) {
	got := parse(t, strings.Fields(`--etcd-endpoints=https://192.0.2.1:2379,,192.0.2.2:2379 -etcd-prefix //a/b/ -etcd-keyfile=k --etcd-certfile c
		--etcd-cafile ca --etcd-username u --etcd-password p --kube-subnet-mgr=false --kube-api-url x --kubeconfig-file y
		--kube-annotation-prefix z --set-node-network-unavailable=f --net-config-path n
		--iface eth0 -iface=192.0.2.7 --iface= --iface-regex ^eth --iface-can-reach 192.0.2.254 --public-ip ::ffff:203.0.113.1
		--public-ipv6 2001:db8::1 --subnet-file /tmp/net/second.env --subnet-lease-renew-margin 1439 --ip-masq
		--ip-masq-fully-random-disable --iptables-resync 1 --iptables-forward-rules=false --ip-blackhole-route
		--healthz-ip ::1 --healthz-port 8081 --v=5 --lost-lease-grace 0s --log-format json --dry-run`), nil)
	want := options.Options{
		Etcd: options.Etcd{
			Endpoints: []string{"https://192.0.2.1:2379", "192.0.2.2:2379"}, Prefix: "/a/b",
			CAFile: "ca", CertFile: "c", KeyFile: "k", Username: "u", Password: options.NewSecret("p"),
		},
		Kube:     options.Kube{APIURL: "x", Kubeconfig: "y", AnnotationPrefix: "z", NetConfigPath: "n"},
		Embedded: options.Embedded{QuotaMiB: 512},
		Iface:    []string{"eth0", "192.0.2.7"}, IfaceCanReach: netip.MustParseAddr("192.0.2.254"),
		Public:     addr.Pair(netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")),
		SubnetFile: "/tmp/net/second.env", StateDir: "/tmp/net/second.env.state", ControlSocket: "/tmp/net/second.sock",
		RenewMargin: 1439 * time.Minute, IPMasq: true, Resync: time.Second, Blackhole: true,
		Healthz: netip.MustParseAddrPort("[::1]:8081"), LogLevel: slog.LevelDebug, LogFormat: options.FormatJSON, DryRun: true,
	}
	if len(got.IfaceRegex) != 1 || got.IfaceRegex[0].String() != "^eth" {
		t.Errorf("regexes %v", got.IfaceRegex)
	}
	settings := len(got.Effective())
	want.IfaceRegex = got.IfaceRegex
	if !equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if settings != 30 {
		t.Errorf("%d settings differ from defaults, want 30: %v", settings, got.Effective())
	}
}

// equal compares the exported fields.
func equal(a, b options.Options) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if x.Type().Field(i).IsExported() && !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			return false
		}
	}
	return true
}

func TestPaths(t *testing.T) {
	for _, tt := range []struct{ args, file, state, socket string }{
		{"--subnet-file=/run/flannel/second.env", "/run/flannel/second.env", "/var/lib/flannel/second", "/run/flannel/second.sock"},
		{"--subnet-file=/run/../etc/net", "/etc/net", "/etc/net.state", "/etc/net.sock"},
		{"--state-dir=/x/ --control-socket=/y", "/run/flannel/subnet.env", "/x", "/y"},
		{"--state-dir= --control-socket=", "/run/flannel/subnet.env", "/var/lib/flannel/subnet", "/run/flannel/subnet.sock"},
	} {
		o := parse(t, strings.Fields(tt.args), nil)
		if o.SubnetFile != tt.file || o.StateDir != tt.state || o.ControlSocket != tt.socket {
			t.Errorf("%s: %s, %s, %s", tt.args, o.SubnetFile, o.StateDir, o.ControlSocket)
		}
	}
	t.Chdir("/usr")
	if o := parse(t, []string{"--subnet-file=x.env"}, nil); o.SubnetFile != "/usr/x.env" {
		t.Errorf("relative subnet file became %s", o.SubnetFile)
	}
}

// Two ways to one file are one instance.
func TestLinkedDirectory(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": dir, "run": "/run", "nowhere": dir + "/missing"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ given, file, state, socket string }{
		{dir + "/link/new/x.env", dir + "/new/x.env", dir + "/new/x.env.state", dir + "/new/x.sock"},
		{dir + "/run/none/subnet.env", "/run/none/subnet.env", "/var/lib/none/subnet", "/run/none/subnet.sock"},
		{dir + "/run/flannel/subnet.env", state.DefaultSubnetFile, "/var/lib/flannel/subnet", "/run/flannel/subnet.sock"},
		{dir + "/nowhere/x.env", dir + "/nowhere/x.env", dir + "/nowhere/x.env.state", dir + "/nowhere/x.sock"},
		{"/x.env", "/x.env", "/x.env.state", "/x.sock"},
	} {
		o := parse(t, []string{"--subnet-file", tt.given}, nil)
		if o.SubnetFile != tt.file || o.StateDir != tt.state || o.ControlSocket != tt.socket {
			t.Errorf("%s: %s, %s, %s", tt.given, o.SubnetFile, o.StateDir, o.ControlSocket)
		}
	}
}

func TestEtcdPrefix(t *testing.T) {
	for in, want := range map[string]string{"/": "", "/a": "/a", "/a/": "/a", "a//b/../c": "a/c", "//": ""} {
		if got := parse(t, []string{"--etcd-prefix", in}, nil).Etcd.Prefix; got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	o := parse(t, []string{"--ip-masq=false", "--etcd-prefix=/flag", "--etcd-endpoints=http://127.0.0.1:4001,http://127.0.0.1:2379"}, []string{
		"FLANNELD_IP_MASQ=true", "FLANNELD_ETCD_PREFIX=/env", "FLANNELD_IFACE=eth7", "FLANNELD_ETCD_PASSWORD=hunter2",
		"FLANNELD_ETCD_USERNAME=root", "FLANNELD_VERSION=true", "FLANNELD_V=4", "FLANNELD_SERVICE_HOST=10.0.0.1",
		"FLANNELD_ETCD_ENDPOINT=http://192.0.2.1", "FLANNELD_LOGTOSTDERR=true", "noise",
	})
	if o.IPMasq || o.Etcd.Prefix != "/flag" || !slices.Equal(o.Iface, []string{"eth7"}) || o.Version ||
		o.Etcd.Password.Reveal() != "hunter2" || o.LogLevel != slog.LevelDebug {
		t.Errorf("got %+v", o)
	}
	wantWarnings := []string{
		"FLANNELD_LOGTOSTDERR has no effect: logs go to standard error, see --v and --log-format",
		"environment variable FLANNELD_ETCD_ENDPOINT has no effect: did you mean FLANNELD_ETCD_ENDPOINTS?",
	}
	if !slices.Equal(o.Warnings, wantWarnings) {
		t.Errorf("warnings %q", o.Warnings)
	}
	want := []options.Setting{
		{"etcd-prefix", "/flag", options.FromFlag},
		{"etcd-username", "root", options.FromEnvironment},
		{"etcd-password", "(redacted)", options.FromEnvironment},
		{"iface", "eth7", options.FromEnvironment},
		{"v", "4", options.FromEnvironment},
	}
	if got := o.Effective(); !slices.Equal(got, want) {
		t.Errorf("settings %v, want %v", got, want)
	}
}

func TestKlogFlags(t *testing.T) {
	o := parse(t, strings.Fields("--vmodule=a=1 --log_backtrace_at x:1 --logtostderr --stderrthreshold=2 --alsologtostderr=false --v 3"), nil)
	if len(o.Warnings) != 5 || !strings.HasPrefix(o.Warnings[0], "--vmodule has no effect") || o.LogLevel != slog.LevelInfo {
		t.Errorf("warnings %q, level %s", o.Warnings, o.LogLevel)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range []string{"-h", "--help", "--ip-masq -help --nonsense"} {
		if _, err := options.Parse(strings.Fields(args), nil); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v, want ErrHelp", args, err)
		}
	}
	if o := parse(t, strings.Fields("--kube-subnet-mgr --version --healthz-port=x"), nil); !o.Version {
		t.Error("--version beside bad values does not win")
	}
	if o := parse(t, []string{"--version", "--version=false"}, nil); o.Version || o.SubnetFile == "" {
		t.Errorf("--version=false: %+v", o)
	}
	usage := options.Usage()
	for _, f := range options.Flags() {
		if f.Doc == "" || f.Type == "" || f.Group == "" || !strings.Contains(usage, "\n  --"+f.Name) {
			t.Errorf("--%s is not documented", f.Name)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		args string
		env  string
		want string
	}{
		{args: "--etcd-endpoint=x", want: "unknown flag --etcd-endpoint: did you mean --etcd-endpoints?"},
		{args: "--zebra", want: "unknown flag --zebra"},
		{args: "--iface", want: "--iface: needs a value"},
		{args: "--ip-masq false", want: `unexpected argument "false": the value of a boolean flag needs "=", as in --ip-masq=false`},
		{args: "run", want: `unexpected argument "run"`},
		{args: "---v=1", want: `unexpected argument "---v=1"`},
		{args: "--=1", want: `unexpected argument "--=1"`},
		{args: "--", want: `unexpected argument "--"`},
		{args: "--ip-masq=yes", want: `--ip-masq "yes": must be true or false`},
		{args: "--ip-masq-fully-random-disable=2", want: `--ip-masq-fully-random-disable "2": must be true or false`},
		{args: "--subnet-lease-renew-margin=1440", want: `--subnet-lease-renew-margin "1440": must be 1..1439`},
		{args: "--subnet-lease-renew-margin=0", want: "must be 1..1439"},
		{args: "--iptables-resync=0", want: `--iptables-resync "0": must be a whole number, at least 1`},
		{args: "--iptables-resync=99999999999999999999", want: "must be a whole number"},
		{args: "--healthz-port=65536", want: `--healthz-port "65536": must be 0..65535`},
		{args: "--healthz-ip=localhost", want: `--healthz-ip "localhost": must be an IP address`},
		{args: "--public-ip=2001:db8::1", want: `--public-ip "2001:db8::1": must be an IPv4 address`},
		{args: "--public-ipv6=192.0.2.1", want: `--public-ipv6 "192.0.2.1": must be an IPv6 address`},
		{args: "--public-ipv6=fe80::1%eth0", want: "must be an IP address"},
		{args: "--iface-can-reach=x", want: `--iface-can-reach "x": must be an IP address`},
		{args: "--iface-regex=[", want: `--iface-regex "[": must be a regular expression: `},
		{args: "--lost-lease-grace=-1s", want: `--lost-lease-grace "-1s": must be a duration such as`},
		{args: "--log-format=xml", want: `--log-format "xml": must be text or json`},
		{args: "--v=high", want: `--v "high": must be a whole number, at least 0`},
		{args: "--etcd-certfile=c", want: "--etcd-certfile and --etcd-keyfile: must be given together"},
		{args: "--etcd-password=hunter2", want: "--etcd-password: needs --etcd-username"},
		{args: "--etcd-prefix=", want: `--etcd-prefix "": must not be empty`},
		{args: "--etcd-endpoints=,", want: `--etcd-endpoints ",": must list at least one server`},
		{args: "--etcd-endpoints=etcd1", want: "must be URLs such as https://192.0.2.1:2379, or host:port"},
		{args: "--etcd-endpoints=ftp://192.0.2.1", want: "must be URLs such as https://192.0.2.1:2379"},
		{args: "--subnet-file=", want: "--subnet-file: must not be empty"},
		{args: "--kube-subnet-mgr", want: "--kube-subnet-mgr: not in this build yet"},
		{env: "FLANNELD_PUBLIC_IP=x", want: `FLANNELD_PUBLIC_IP "x": must be an IP address`},
		{env: "FLANNELD_IPTABLES_RESYNC=0", args: "--v=1", want: `FLANNELD_IPTABLES_RESYNC "0": must be`},
	} {
		_, err := options.Parse(strings.Fields(tt.args), []string{tt.env})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s:\n got %v\nwant %s", tt.env, tt.args, err, tt.want)
		}
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	_, err := options.Parse([]string{"--v=x", "--iface-regex=["}, []string{"FLANNELD_HEALTHZ_PORT=-1"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want three lines", err)
	}
}

// TestSecretsStayHidden looks at every way in which options reach a log.
func TestSecretsStayHidden(t *testing.T) {
	o := parse(t, []string{"--etcd-password=hunter2", "--etcd-username=root", "--kube-api-url=https://me:hunter2@192.0.2.1"}, nil)
	schemeless := parse(t, []string{"--kube-api-url=me:hunter2@192.0.2.1"}, nil)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("start", "options", o, "password", o.Etcd.Password)
	asJSON, err := json.Marshal(o.Etcd)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{
		log.String(), string(asJSON), fmt.Sprint(o.Etcd), fmt.Sprintf("%+v %#v", o.Etcd, o.Etcd), fmt.Sprint(o.Effective()), fmt.Sprint(schemeless.Effective()),
	}
	for _, args := range [][]string{
		{"--etcd-endpoints=http://root:hunter2@192.0.2.1"},
		{"--etcd-endpoints=root:hunter2@192.0.2.1:2379"},
		{"--etcd-endpoints=root:hunter2@192.0.2.1:2379,http://192.0.2.2:2379"},
		{"--etcd-password=x", "hunter2"},
		{"--etcd-password=hunter2"},
	} {
		_, err := options.Parse(args, nil)
		if err == nil {
			t.Errorf("%q: no error", args)
		}
		texts = append(texts, fmt.Sprint(err))
	}
	for _, s := range texts {
		if strings.Contains(s, "hunter2") {
			t.Errorf("secret shows up in %s", s)
		}
	}
	if !strings.Contains(log.String(), "options.etcd-password=(redacted) ") || !strings.Contains(log.String(), "options.etcd-username=root ") {
		t.Errorf("log line %s", log.String())
	}
	if (options.Secret{}).String() != "" {
		t.Error("no secret looks like one")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--iface eth0 --v=4", "FLANNELD_PUBLIC_IP=192.0.2.1")
	f.Add("--etcd-endpoints https://192.0.2.1:2379 --subnet-lease-renew-margin 5", "FLANNELD_IFACE_REGEX=^e")
	f.Fuzz(func(t *testing.T, args, env string) {
		o, err := options.Parse(strings.Fields(args), strings.Split(env, "\x00"))
		if err != nil || o.Version {
			return
		}
		if o.Resync <= 0 || o.RenewMargin <= 0 || o.LostLeaseGrace < 0 || len(o.Etcd.Endpoints) == 0 ||
			!strings.HasPrefix(o.SubnetFile, "/") || o.StateDir == "" || o.ControlSocket == "" {
			t.Errorf("%q %q: %+v", args, env, o)
		}
	})
}
