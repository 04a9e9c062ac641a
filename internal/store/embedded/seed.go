package embedded

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/auth"
)

// DefaultSeed is the network config of a store that nobody has written to.
const DefaultSeed = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`

// seed puts the network config into an empty store: if no key lies below the
// prefix, in one transaction, so that of three new members one does it, and a
// config that somebody wrote or took away on purpose is never replaced.
func (s *service) seed(ctx context.Context) error {
	c := s.member.config
	below := c.Prefix + "/"
	key := below + "config"
	res, err := s.etcd.Server.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Result: pb.Compare_EQUAL, Target: pb.Compare_CREATE,
			Key: []byte(below), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(below)),
			TargetUnion: &pb.Compare_CreateRevision{},
		}},
		Success: []*pb.RequestOp{{
			Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: c.Seed}},
		}},
	})
	switch {
	case errors.Is(err, auth.ErrUserEmpty): // with users, it is nobody's empty store
		s.seeded = true
		return nil
	case err != nil:
		return fmt.Errorf("look whether the store is empty: %w", err)
	}
	s.seeded = true
	if res.Succeeded {
		c.Log.Info("the store was empty and got a network config; flannelctl config set changes it",
			"key", key, "config", string(c.Seed))
	}
	return nil
}
