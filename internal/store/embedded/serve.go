package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
)

const (
	lookEvery  = time.Second
	probeEvery = 5 * time.Second
)

// service is one run of a started member.
type service struct {
	member *Member
	etcd   *embed.Etcd
	peers  *prober

	promoted bool // it takes a moment to show
	seeded   bool
	moved    bool // the cluster knows our address
	probed   time.Time
	said     string // the last failure of a chore
}

// serve watches over the member until it or ctx ends.
func (m *Member) serve(ctx context.Context, e *embed.Etcd) error {
	peers, err := newProber(m.config.TLS)
	if err != nil {
		return err
	}
	defer peers.close()
	s := &service{member: m, etcd: e, peers: peers}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	ready := e.Server.ReadyNotify()
	for {
		leader := e.Server.LeaderChangedNotify()
		s.look(ctx)
		s.work(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case why := <-m.death:
			return m.died(why)
		case err := <-e.Err():
			return s.ended(err)
		case <-e.Server.StopNotify():
			return s.ended(nil)
		case <-ready:
			ready = nil
		case <-leader:
		case <-tick.C:
		}
	}
}

// ended says why etcd stopped. A server that stops by itself does so for one
// reason, which it does not tell: it heard from the others that it was removed.
func (s *service) ended(err error) error {
	select {
	case <-s.etcd.Server.StoppingNotify():
		return fmt.Errorf("%w: to bring it back as a new one, stop flanneld, move %s away and start with --etcd-embedded-join",
			ErrRemoved, s.member.config.Dir)
	default:
		return fmt.Errorf("the embedded etcd stopped: %w", err)
	}
}

// look renews the state.
func (s *service) look(ctx context.Context) {
	server := s.etcd.Server
	now := s.member.State()
	now.Err = nil
	switch id := server.MemberID(); {
	case server.Leader() == 0:
		now.Role = Orphan
	case server.IsLearner():
		now.Role = Learner
	case server.Leader() == id:
		now.Role = Leader
	default:
		now.Role = Follower
	}
	now.Alarms = nil
	for _, a := range server.Alarms() {
		if text := alarmText(a.GetAlarm().String(), s.member.config.Quota); !slices.Contains(now.Alarms, text) {
			now.Alarms = append(now.Alarms, text)
		}
	}
	members := server.Cluster().Members()
	if len(members) != now.Members || !now.Serving() || time.Since(s.probed) > probeEvery {
		s.member.set(now) // the rest takes a moment
		now.Members = len(members)
		now.Reachable = s.peers.count(ctx, server.MemberID(), members)
		s.probed = time.Now()
	}
	s.member.set(now)
}

// work does what a member does for itself once there is a leader: each of it
// once, and again until it worked.
func (s *service) work(ctx context.Context) {
	role := s.member.State().Role
	if role == Orphan {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	if role == Learner {
		err = s.promote(ctx)
	} else {
		if !s.moved {
			err = s.announce(ctx)
		}
		if err == nil && s.moved && !s.seeded {
			err = s.seed(ctx)
		}
	}
	if err == nil || ctx.Err() != nil || err.Error() == s.said {
		return
	}
	s.said = err.Error()
	s.member.config.Log.Warn("embedded etcd", "text", s.said)
}

// promote asks the leader to count this member. It refuses until we have
// copied its data.
func (s *service) promote(ctx context.Context) error {
	if s.promoted {
		return nil
	}
	_, err := s.etcd.Server.PromoteMember(ctx, uint64(s.etcd.Server.MemberID()))
	switch {
	case err == nil, errors.Is(err, membership.ErrMemberNotLearner):
		s.promoted = true
		s.member.config.Log.Info("full member of the store's cluster now", "name", s.member.config.Name)
		return nil
	case errors.Is(err, etcderrors.ErrLearnerNotReady):
		return nil
	default:
		return fmt.Errorf("become a full member: %w", err)
	}
}

// announce tells the cluster where this member is, if it was elsewhere: after
// a change of address, and when a member alone starts to listen for others.
func (s *service) announce(ctx context.Context) error {
	server, at := s.etcd.Server, s.member.config.peerURL()
	own := server.Cluster().Member(server.MemberID())
	if own == nil || slices.Equal(own.PeerURLs, []string{at.String()}) {
		s.moved = own != nil
		return nil
	}
	if !s.member.config.Listen.IsValid() && len(server.Cluster().Members()) > 1 {
		s.moved = true
		return fmt.Errorf("the other members expect this one at %s, but it listens on loopback only: give --etcd-embedded-listen",
			own.PeerURLs)
	}
	_, err := server.UpdateMember(ctx, membership.Member{
		ID: own.ID, RaftAttributes: membership.RaftAttributes{PeerURLs: []string{at.String()}},
	})
	if err != nil {
		return fmt.Errorf("tell the cluster the address %s: %w", at.String(), err)
	}
	s.moved = true
	s.member.config.Log.Info("told the cluster of the store a new address", "was", own.PeerURLs, "is", at.String())
	return nil
}
