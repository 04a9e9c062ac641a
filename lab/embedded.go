package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// seedFile is the network config of an empty store, inside a member's host.
const seedFile = "/run/seed.json"

// member says whether the store runs inside the host's flanneld.
func (h *Host) member() bool { return h.Index <= h.fabric.Options.Embedded }

// storeArgs tell flanneld where the store is, or that it is one of it.
func (h *Host) storeArgs() []string {
	f := h.fabric
	if !h.member() || h.instance != "" {
		args := []string{"--etcd-endpoints=" + f.Etcd.Endpoint}
		if f.Options.TLS {
			args = append(args, "--etcd-cafile="+tlsDir+"/ca.pem", "--etcd-certfile="+tlsDir+"/cert.pem", "--etcd-keyfile="+tlsDir+"/key.pem")
		}
		return args
	}
	return []string{
		"--etcd-embedded", "--etcd-embedded-cluster=" + f.members(), "--etcd-embedded-plaintext", "--etcd-embedded-seed=" + seedFile,
	}
}

// members is the list of the store's members.
func (f *Fabric) members() string {
	var out []string
	for _, h := range f.Hosts[:f.Options.Embedded] {
		out = append(out, h.Name+"="+h.Underlay(f.Options.Families[0]).String())
	}
	return strings.Join(out, ",")
}

// reachMembers makes the client of a store that runs in the hosts' flanneld,
// and gives them the network config to start it with. The client's packets come
// from the node that has the etcd in other fabrics.
func (f *Fabric) reachMembers() error {
	if f.Options.Embedded > len(f.Hosts) {
		return fmt.Errorf("%d members on %d hosts", f.Options.Embedded, len(f.Hosts))
	}
	conf, err := f.Options.netConf()
	if err != nil {
		return err
	}
	var endpoints []string
	for _, h := range f.Hosts[:f.Options.Embedded] {
		if err := os.WriteFile(h.Path(seedFile), []byte(conf), 0o600); err != nil {
			return fmt.Errorf("network config for %s: %w", h.Name, err)
		}
		at := netip.AddrPortFrom(h.Underlay(f.Options.Families[0]), etcdPort)
		endpoints = append(endpoints, "http://"+at.String())
	}
	e := f.Etcd
	e.Endpoint = strings.Join(endpoints, ",")
	e.Client, err = clientv3.New(clientv3.Config{
		Endpoints: endpoints,
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, at string) (net.Conn, error) {
			return e.Dial(ctx, Origin{}, "tcp", at)
		})},
	})
	if err != nil {
		return fmt.Errorf("etcd client: %w", err)
	}
	return nil
}
