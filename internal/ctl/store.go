package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Admin works on leases behind the daemons' backs.
type Admin interface {
	// Leases lists all leases with their remaining life.
	Leases(ctx context.Context) ([]Lease, error)
	// Reserve keeps subnets for the host with these public addresses. Its
	// errors name the subnets.
	Reserve(ctx context.Context, subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) error
	// Release ends a lease or reservation. Without force it refuses with
	// ErrAlive if the holder is alive. Its errors name the lease.
	Release(ctx context.Context, key string, force bool) error
}

// Configs reads and writes the network config.
type Configs interface {
	// Get returns the config and its revision; nil and 0 if there is none.
	Get(ctx context.Context) (data []byte, rev int64, err error)
	// Set replaces the config of revision rev, 0 to create it. It fails with
	// ErrChanged if the store has another revision.
	Set(ctx context.Context, data []byte, rev int64) error
}

// What the store refuses, with what to do about it.
var (
	// ErrChanged says that somebody else wrote the config in between.
	ErrChanged = errors.New("the stored config changed meanwhile: look at it with flannelctl config get and try again")
	// ErrAlive says that the host of a lease is alive.
	ErrAlive = errors.New("its host is alive: stop flanneld there, or use --force")
)

// Store is an open connection to the store.
type Store struct {
	Admin   Admin
	Configs Configs
	Cluster Cluster
	Close   func() error
}

// Lease is a lease as flannelctl lease list shows it.
type Lease struct {
	lease.Lease
	Alive bool          // its owner is there; never for plain flannel, which does not show it
	TTL   time.Duration // until it expires; 0 for a reservation
}

// StoreOptions say where the store is and who asks; names, defaults and
// environment are those of flanneld.
type StoreOptions struct {
	Endpoints                 []string
	Prefix                    string
	CAFile, CertFile, KeyFile string
	Username, Password        string
}

const storeFlag = "etcd-"

func (o *StoreOptions) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&o.Endpoints, storeFlag+"endpoints",
		[]string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}, "etcd servers, separated by commas")
	flags.StringVar(&o.Prefix, storeFlag+"prefix", "/coreos.com/network", "etcd key before everything")
	flags.StringVar(&o.CAFile, storeFlag+"cafile", "", "file with the CA that signed etcd's certificate")
	flags.StringVar(&o.CertFile, storeFlag+"certfile", "", "file with our certificate for etcd")
	flags.StringVar(&o.KeyFile, storeFlag+"keyfile", "", "file with the key of our certificate")
	flags.StringVar(&o.Username, storeFlag+"username", "", "etcd user")
	flags.StringVar(&o.Password, storeFlag+"password", "",
		"password of the etcd user; better in the environment, where ps does not show it")
}

// flagEnv is the environment variable of a flag of flanneld.
func flagEnv(flag string) string {
	return "FLANNELD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// open dials the store. An option that was not given on the command line is
// taken from FLANNELD_ETCD_…, so that flannelctl works with the environment
// file of the daemon.
func (a *app) open(cmd *cobra.Command) (*Store, error) {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := flagEnv(f.Name)
		v, ok := a.lookupEnv(name)
		if !ok || f.Changed || !strings.HasPrefix(f.Name, storeFlag) {
			return
		}
		if err := f.Value.Set(v); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return a.Dial(cmd.Context(), a.store)
}

// withStore runs what with an open store.
func (a *app) withStore(cmd *cobra.Command, what func(*Store) error) error {
	s, err := a.open(cmd)
	if err != nil {
		return err
	}
	err = errors.Join(what(s), s.Close())
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: does etcd answer at %s (--etcd-endpoints)?", err, strings.Join(a.store.Endpoints, ", "))
		if a.store.CertFile == "" {
			err = fmt.Errorf("%w If it has TLS, write https:// and give --etcd-cafile, --etcd-certfile and --etcd-keyfile", err)
		}
	}
	return err
}
