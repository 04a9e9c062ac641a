package options

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// finish fills in the defaults that depend on other values, and checks what
// must fit together.
func (p *parser) finish() {
	o := &p.out
	if o.SubnetFile == "" {
		p.refuse("--subnet-file: must not be empty")
	}
	o.SubnetFile = resolved(o.SubnetFile)
	if o.StateDir == "" {
		o.StateDir = stateDir(o.SubnetFile)
	}
	if o.ControlSocket == "" {
		o.ControlSocket = state.ControlSocket(o.SubnetFile)
	}
	if (o.Etcd.CertFile == "") != (o.Etcd.KeyFile == "") {
		p.refuse("--etcd-certfile and --etcd-keyfile: must be given together")
	}
	if o.Etcd.Username == "" && o.Etcd.Password.Reveal() != "" {
		p.refuse("--etcd-password: needs --etcd-username")
	}
	p.finishEmbedded()
	if o.Kube.SubnetMgr {
		p.refuse("--kube-subnet-mgr: not in this build yet")
	}
}

func (p *parser) refuse(why string) { p.errs = append(p.errs, errors.New(why)) }

// stateDir is the persistent twin of the subnet file, which usually lies where
// a reboot empties everything. The whole path counts, because two daemons with
// subnet files of one name must not share a state.
func stateDir(subnetFile string) string {
	for _, volatile := range []string{"/run/", "/var/run/"} {
		if rest, ok := strings.CutPrefix(subnetFile, volatile); ok {
			return filepath.Join("/var/lib", strings.TrimSuffix(rest, ".env"))
		}
	}
	return subnetFile + ".state"
}

// resolved follows the symbolic links of the directories of file, as far as
// they exist: the path names the instance, and /var/run/flannel/subnet.env is
// no other one than /run/flannel/subnet.env.
func resolved(file string) string {
	dir, rest := filepath.Split(file)
	for dir != "" && dir != "/" {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		dir = filepath.Clean(dir)
		rest = filepath.Join(filepath.Base(dir), rest)
		dir = filepath.Dir(dir)
	}
	return file
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
