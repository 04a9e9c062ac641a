package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
)

// askTimeout is how long one member may take to say how it is.
const askTimeout = 2 * time.Second

// Admin works on a cluster of etcd, embedded or not, from outside.
type Admin struct {
	config clientv3.Config
	client *clientv3.Client
}

// NewAdmin makes an Admin; the caller closes it.
func NewAdmin(c clientv3.Config) (*Admin, error) {
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", strings.Join(c.Endpoints, ","), err)
	}
	return &Admin{config: c, client: client}, nil
}

// Close ends the connection.
func (a *Admin) Close() error { return a.client.Close() }

// What a member can be besides a Role.
const (
	Unreachable Role = "unreachable"
	NotStarted  Role = "not started" // added, and nobody has started it yet
)

// Info is how one member stands.
type Info struct {
	ID     uint64
	Name   string   // "" before its first start
	Peers  []string // where the other members reach it
	Role   Role
	Voter  bool   // counts for a majority
	DBSize int64  // bytes; 0 if it does not answer
	Err    string // why it does not answer
}

// Members lists the members, sorted by name, and asks each how it is. It works
// without a majority, too.
func (a *Admin) Members(ctx context.Context) ([]Info, error) {
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := a.client.MemberList(asking, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("list the members: %w", err)
	}
	out := make([]Info, len(list.Members))
	var wg sync.WaitGroup
	for i, m := range list.Members {
		wg.Go(func() { out[i] = a.ask(ctx, m) })
	}
	wg.Wait()
	slices.SortFunc(out, func(x, y Info) int { return strings.Compare(x.Name+" "+x.Peers[0], y.Name+" "+y.Peers[0]) })
	return out, nil
}

func (a *Admin) ask(ctx context.Context, m *pb.Member) Info {
	i := Info{ID: m.ID, Name: m.Name, Peers: m.PeerURLs, Voter: !m.IsLearner, Role: Unreachable}
	if len(i.Peers) == 0 {
		i.Peers = []string{"-"}
	}
	if m.Name == "" {
		i.Role = NotStarted
		return i
	}
	for _, u := range m.ClientURLs {
		status, err := a.status(ctx, u)
		if err != nil {
			i.Err = err.Error()
			continue
		}
		i.DBSize, i.Err = status.DbSize, ""
		switch {
		case status.IsLearner:
			i.Role = Learner
		case status.Leader == 0:
			i.Role = Orphan
		case status.Leader == m.ID:
			i.Role = Leader
		default:
			i.Role = Follower
		}
		return i
	}
	return i
}

func (a *Admin) status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return a.client.Status(ctx, endpoint)
}

// Remove takes a member out of the cluster. etcd refuses by itself what would
// certainly cost the majority.
func (a *Admin) Remove(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	if _, err := a.client.MemberRemove(ctx, id); err != nil {
		return fmt.Errorf("remove member %x: %w", id, err)
	}
	return nil
}

// Snapshot saves the content of the store, as one of the endpoints has it, to
// file, which is replaced once all of it is there and its hash is right.
func (a *Admin) Snapshot(ctx context.Context, file string) (Summary, error) {
	var errs []error
	for _, endpoint := range a.config.Endpoints {
		if _, err := a.status(ctx, endpoint); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", endpoint, err))
			continue
		}
		out, err := a.save(ctx, endpoint, file)
		if err != nil {
			return Summary{}, fmt.Errorf("snapshot of %s: %w", endpoint, err)
		}
		return out, nil
	}
	return Summary{}, fmt.Errorf("no etcd answers: %w", errors.Join(errs...))
}

// save has etcd's client write to a directory that only we can enter: it opens
// the name with .part behind it, whatever and whosever that is.
func (a *Admin) save(ctx context.Context, endpoint, file string) (Summary, error) {
	private, err := os.MkdirTemp(filepath.Dir(file), ".snapshot-")
	if err != nil {
		return Summary{}, err
	}
	defer func() { _ = os.RemoveAll(private) }()
	config, fresh := a.config, filepath.Join(private, "db")
	config.Endpoints = []string{endpoint}
	if _, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), config, fresh); err != nil {
		return Summary{}, err
	}
	out, err := Inspect(fresh)
	if err != nil {
		return Summary{}, err
	}
	return out, os.Rename(fresh, file)
}
