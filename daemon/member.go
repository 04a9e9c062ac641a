package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	backends "github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
)

// memberClosing is how long an orderly stop may take to hand leadership over
// and to close the data of the embedded etcd.
const memberClosing = 5 * time.Second

// openMember makes the etcd member of this host; nil if none is wanted.
func openMember(c Config) (*embedded.Member, error) {
	e := c.Options.Embedded
	if !e.Enabled {
		return nil, nil
	}
	name, err := memberName(e.Name)
	if err != nil {
		return nil, err
	}
	seed, err := readSeed(e.Seed, c.Options.AllowExtension)
	if err != nil {
		return nil, err
	}
	var cluster []embedded.Peer
	for _, m := range e.Cluster {
		cluster = append(cluster, embedded.Peer{Name: m.Name, At: netip.AddrPortFrom(m.Address, 0)})
	}
	return embedded.New(embedded.Config{
		Dir: e.Dir, Name: name, Listen: e.Listen, Cluster: cluster, Join: e.Join,
		TLS:   embedded.Files{Cert: e.CertFile, Key: e.KeyFile, CA: e.CAFile},
		Quota: int64(e.QuotaMiB) << 20, Prefix: c.Options.Etcd.Prefix, Seed: seed, Log: c.Log,
	})
}

func memberName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("host name, for --etcd-embedded-name: %w", err)
	}
	return name, nil
}

// readSeed reads a network config and refuses one that no daemon could follow:
// it would only show when the store is empty, on the worst of days. allowed: it
// may name commands.
func readSeed(path string, allowed bool) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--etcd-embedded-seed: %w", err)
	}
	n, err := config.Parse(text)
	if err == nil {
		_, _, err = backends.New(backend.Setup{
			Options: n.Backend, Families: n.Families(), Commands: allowed,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("--etcd-embedded-seed %s is no valid network config: %w", path, err)
	}
	return text, nil
}

// waitMember is a loop of the daemon: it fails if the member died.
func (s *stores) waitMember(ctx context.Context) error {
	if s.member == nil {
		return nil
	}
	return s.member.Wait(ctx)
}

// describe adds to the report what the member of this host knows.
func (s *stores) describe(r *report.Status) {
	if s.member == nil {
		return
	}
	r.Store.Kind = "embedded etcd"
	state := s.member.State()
	if waiting := state.Waiting(); waiting != "" {
		r.Store.Error = waiting
		if !r.Ready {
			// The member knows more than the engine, which says only that.
			r.NotReady = slices.Concat(slices.DeleteFunc(slices.Clone(r.NotReady), func(reason string) bool {
				return strings.HasPrefix(waiting, reason+":")
			}), []string{waiting})
		}
	}
	r.Warnings = slices.Concat(r.Warnings, state.Warnings())
}
