package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// requestTimeout bounds one request to a cluster.
const requestTimeout = 5 * time.Second

// ErrTaken says that the cluster has a member of this name or address whose
// data is not here.
var ErrTaken = errors.New("the cluster has this member already, and its data is not here")

// join makes this host a member of the cluster that answers at c.Join, as a
// learner, which cannot cost the cluster its majority, and returns etcd's
// NAME=URL list. A member of our address that was never started is what a start
// that was cut short left: it is ours.
func (c Config) join(ctx context.Context) (string, error) {
	secure, err := c.TLS.client()
	if err != nil {
		return "", err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Join, TLS: secure, DialTimeout: requestTimeout, Logger: zap.NewNop(),
	})
	if err != nil {
		return "", fmt.Errorf("connect to %s: %w", strings.Join(c.Join, ","), err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return "", fmt.Errorf("list the members at %s: %w", strings.Join(c.Join, ","), err)
	}
	members, at := list.Members, c.peerURL()
	known, err := c.find(members, at.String())
	if err != nil {
		return "", err
	}
	if !known {
		added, err := client.MemberAddAsLearner(ctx, []string{at.String()})
		if err != nil {
			return "", fmt.Errorf("become a member at %s: %w", strings.Join(c.Join, ","), err)
		}
		c.Log.Info("added to the cluster of the store as a learner", "name", c.Name, "address", at.String())
		members = added.Members
	}
	return c.list(members, at.String()), nil
}

// find says whether the member at our address waits to be started.
func (c Config) find(members []*pb.Member, at string) (bool, error) {
	for _, m := range members {
		here := slices.Contains(m.PeerURLs, at)
		switch {
		case here && m.Name == "":
			return true, nil
		case here || m.Name == c.Name:
			return false, fmt.Errorf("%w: member %s (%x) at %s: if it is lost, run flannelctl store remove-member %s, "+
				"and this one joins in its place", ErrTaken, m.Name, m.ID, strings.Join(m.PeerURLs, ","), m.Name)
		}
	}
	return false, nil
}

// list is etcd's NAME=URL list. Names of others do not count for it, but have
// to differ.
func (c Config) list(members []*pb.Member, at string) string {
	var out []string
	for _, m := range members {
		name := m.Name
		if name == "" {
			name = fmt.Sprintf("%x", m.ID)
		}
		for _, u := range m.PeerURLs {
			if u == at {
				name = c.Name
			}
			out = append(out, name+"="+u)
		}
	}
	return strings.Join(out, ",")
}
