package ctl_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/ctl"
)

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second:                       "0s",
		0:                                  "0s",
		999 * time.Millisecond:             "0s",
		59*time.Second + 999:               "59s",
		time.Minute:                        "1m",
		10 * time.Minute:                   "10m",
		time.Hour:                          "1h",
		10*time.Hour + 20*time.Minute + 30: "10h20m",
		47 * time.Hour:                     "47h",
		48 * time.Hour:                     "2d",
	} {
		if got := ctl.Span(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

// failing is an output that is full.
type failing struct{}

var errFull = errors.New("no space left on device")

func (failing) Write([]byte) (int, error) { return 0, errFull }

// A full disk behind > must not look like success.
func TestOutputErrorsCount(t *testing.T) {
	t.Parallel()
	env, stderr := testEnv(), &bytes.Buffer{}
	env.Stdout, env.Stderr = failing{}, stderr
	for _, args := range [][]string{{"version"}, {"version", "-o", "json"}} {
		if code := ctl.Run(t.Context(), env, args); code != ctl.ExitError || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%v: exit %d, %q", args, code, stderr)
		}
	}
}

func TestTooLargeAConfig(t *testing.T) {
	t.Parallel()
	env, stderr := testEnv(), &bytes.Buffer{}
	env.Stdin, env.Stderr = strings.NewReader(strings.Repeat(" ", 1<<20+1)), stderr
	if code := ctl.Run(t.Context(), env, []string{"config", "check", "-"}); code != ctl.ExitError ||
		!strings.Contains(stderr.String(), "- is larger than") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("10.5.0.0/16\tx\n")
	f.Add("\x1b]0;title\a\u202egnp.exe\u0085")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range ctl.Clean(s) {
			if r != '\n' && !unicode.IsPrint(r) && r != unicode.ReplacementChar {
				t.Errorf("%q leaves %q", s, r)
			}
		}
	})
}

func FuzzFindGateway(f *testing.F) {
	const head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
	f.Add(head + "eth0\t0048050A\t020200C0\t0003\t0\t0\t0\t00FFFFFF\n")
	f.Add(head + "eth0\t0048050A\t00000000\t0003\t0\t0\t0\t00FFFFFF\n")
	f.Add(head + "eth0\tx\n")
	f.Add("")
	subnet := netip.MustParsePrefix("10.5.72.0/24")
	f.Fuzz(func(t *testing.T, table string) {
		via, err := ctl.FindGateway(strings.NewReader(table), subnet)
		if via.IsValid() && (err != nil || !via.Is4() || via.IsUnspecified()) {
			t.Errorf("via %s with error %v", via, err)
		}
	})
}

func FuzzParseSubnets(f *testing.F) {
	f.Add("10.5.34.0/24,fc00::/64")
	f.Add("10.5.34.1/24")
	f.Add("::ffff:10.5.34.0/120")
	f.Fuzz(func(t *testing.T, text string) {
		subnets, err := ctl.ParseSubnets(text)
		if err != nil {
			return
		}
		for _, fam := range addr.Families() {
			p := subnets.At(fam)
			if p.IsValid() && (p != p.Masked() || addr.Of(p.Addr()) != fam || p.Addr().Is4In6()) {
				t.Errorf("%q: %s as %s", text, p, fam)
			}
		}
	})
}

func FuzzParseNode(f *testing.F) {
	f.Add("192.0.2.1,2001:db8::1")
	f.Add("::ffff:192.0.2.1")
	f.Add("fe80::1%eth0")
	f.Fuzz(func(t *testing.T, text string) {
		public, err := ctl.ParseNode(text)
		if err != nil {
			return
		}
		for _, fam := range addr.Families() {
			ip := public.At(fam)
			if ip.IsValid() && (addr.Of(ip) != fam || ip.Is4In6() || ip.Zone() != "" || ip.IsUnspecified()) {
				t.Errorf("%q: %s as %s", text, ip, fam)
			}
		}
	})
}

const reference = "../../docs/flannelctl.md"

// The reference is what the commands say of themselves.
func TestReference(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# flannelctl\n\nThis page is what `flannelctl help` says, command by command.\n" +
		"The options for the store can also come from the environment, as for flanneld:\n" +
		"`FLANNELD_ETCD_ENDPOINTS`, `FLANNELD_ETCD_PREFIX`, `FLANNELD_ETCD_CAFILE`,\n" +
		"`FLANNELD_ETCD_CERTFILE`, `FLANNELD_ETCD_KEYFILE`, `FLANNELD_ETCD_USERNAME`,\n" +
		"`FLANNELD_ETCD_PASSWORD`. The command line wins; an empty variable is ignored.\n" +
		"flannelctl does not read /etc/default/flanneld by itself; on a host whose store is\n" +
		"elsewhere, `set -a; . /etc/default/flanneld` gives a shell the daemon's variables.\n")
	root := ctl.Command(testEnv())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	document(t, &b, root)
	want := b.String()
	have, err := os.ReadFile(reference)
	if err == nil && string(have) == want {
		return
	}
	if os.Getenv("UPDATE_SCRIPTS") == "" {
		t.Fatalf("%s is not what the commands say; run this test with UPDATE_SCRIPTS=1 (%v)", reference, err)
	}
	if err := os.WriteFile(reference, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func document(t *testing.T, b *strings.Builder, cmd *cobra.Command) {
	t.Helper()
	if !cmd.IsAvailableCommand() && cmd.HasParent() || cmd.Name() == "completion" {
		return
	}
	text := &bytes.Buffer{}
	cmd.SetOut(text)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	help := text.String()
	if cmd.HasParent() {
		// The same everywhere: shown once, at the root.
		help, _, _ = strings.Cut(help, "\nGlobal Flags:\n")
	}
	fmt.Fprintf(b, "\n## %s\n\n```text\n%s\n```\n", cmd.CommandPath(), strings.TrimSpace(help))
	for _, sub := range cmd.Commands() {
		document(t, b, sub)
	}
}
