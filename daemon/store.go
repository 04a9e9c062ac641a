package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/events"
	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/options"
	"github.com/flannel-ng/flannel-ng/internal/store/embedded"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/lastgood"
)

// stores is the lease store as the daemon holds it.
type stores struct {
	client  *etcd.Client
	inner   *etcd.Store
	watched lease.Store      // inner behind the last-known-good file
	member  *embedded.Member // nil without --etcd-embedded
}

func openStore(ctx context.Context, c Config, id *identity.Identity, ring *events.Ring) (*stores, error) {
	client, err := dial(ctx, c.Options)
	if err != nil {
		return nil, err
	}
	member, err := openMember(c)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	if member != nil {
		member.Start(ctx)
	}
	inner := etcd.New(client, etcd.Options{HostID: id.Host, BootID: id.Boot, Log: c.Log, Event: func(text string) { ring.Add("store", text) }})
	return &stores{client: client, inner: inner, member: member, watched: lastgood.New(inner, lastgood.Options{
		Path:     filepath.Join(c.Options.StateDir, lastgood.FileName),
		Identity: strings.Join(c.Options.Etcd.Endpoints, ",") + c.Options.Etcd.Prefix,
		HostID:   id.Host,
		Log:      c.Log,
	})}, nil
}

// silent adds to an error of a store that does not answer where it was looked
// for, and what to do.
func silent(o options.Options, err error) error {
	switch {
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	case o.Embedded.Enabled && o.DryRun:
		return fmt.Errorf("%w (a dry run starts no embedded etcd: it asks the one that runs, or --etcd-endpoints)", err)
	case o.Embedded.Enabled:
		return err
	default:
		return fmt.Errorf("%w: does etcd answer at %s (--etcd-endpoints)? If there is none, see --etcd-embedded",
			err, strings.Join(o.Etcd.Endpoints, ", "))
	}
}

// dial names the flags of the files in its error.
func dial(ctx context.Context, o options.Options) (*etcd.Client, error) {
	config := etcdConfig(o)
	client, err := etcd.Dial(ctx, config)
	if err == nil {
		return client, nil
	}
	prefix := "--etcd-"
	if o.Embedded.Enabled {
		prefix += "embedded-"
	}
	return nil, fmt.Errorf("etcd: %w", config.NameFiles(err, prefix))
}

func etcdConfig(o options.Options) etcd.ClientConfig {
	return etcd.ClientConfig{
		Endpoints: o.Etcd.Endpoints, Prefix: o.Etcd.Prefix,
		CAFile: o.Etcd.CAFile, CertFile: o.Etcd.CertFile, KeyFile: o.Etcd.KeyFile,
		Username: o.Etcd.Username, Password: o.Etcd.Password.Reveal(),
	}
}

// close ends the session, so that a successor need not wait for its expiry,
// and then the member through which it may have been ended. Each has its own
// time.
func (s *stores) close(ctx context.Context) error {
	bye, cancel := context.WithTimeout(ctx, closing)
	defer cancel()
	var errs []error
	if err := s.inner.Close(bye); err != nil {
		errs = append(errs, fmt.Errorf("end the session in the store: %w", err))
	}
	errs = append(errs, s.client.Close())
	if s.member != nil {
		bye, cancel := context.WithTimeout(ctx, memberClosing)
		defer cancel()
		errs = append(errs, s.member.Stop(bye))
	}
	return errors.Join(errs...)
}
