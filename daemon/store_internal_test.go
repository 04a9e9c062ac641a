package daemon

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/options"
)

// A certificate that cannot be read is named with the flag that it came from.
func TestDialNamesFlags(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone.pem")
	for _, tt := range []struct {
		embedded          bool
		ca, cert, key     string
		want, unmentioned string
	}{
		{ca: gone, want: "(--etcd-cafile=" + gone + ")", unmentioned: "keyfile"},
		{cert: gone, key: gone, want: "(--etcd-certfile=" + gone + ", --etcd-keyfile=" + gone + ")", unmentioned: "cafile"},
		{embedded: true, ca: gone, want: "(--etcd-embedded-cafile=" + gone + ")"},
	} {
		var o options.Options
		o.Etcd.Endpoints, o.Etcd.Prefix = []string{"https://192.0.2.1:2379"}, "/coreos.com/network"
		o.Etcd.CAFile, o.Etcd.CertFile, o.Etcd.KeyFile, o.Embedded.Enabled = tt.ca, tt.cert, tt.key, tt.embedded
		_, err := dial(t.Context(), o)
		if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		} else if tt.unmentioned != "" && strings.Contains(err.Error(), tt.unmentioned) {
			t.Errorf("%v: mentions %s", err, tt.unmentioned)
		}
	}
}
