package nl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrOverrun says that notifications were lost, and that more may be until a
// new subscription is made: a congested socket drops them silently.
var ErrOverrun = errors.New("netlink notifications lost")

// Subject is what a notification is about.
type Subject uint8

// eventBuffer in bytes: some thousands of notifications. The kernel tells of each
// forwarding entry, ours as well, and a new fabric has thousands.
const eventBuffer = 4 << 20

// The subjects.
const (
	SubjectLink Subject = iota + 1
	SubjectAddress
	SubjectRoute
	SubjectNexthop
	SubjectNeighbour
	SubjectFDB
)

// Event is a notification: something of Subject changed.
type Event struct {
	Subject Subject
	Gone    bool // removed
	// Port is the netlink port of whoever asked for the change, 0 if the kernel
	// does not tell or did it by itself.
	Port  uint32
	Link  int          // index, of all but routes and nexthop objects
	Name  string       // of a link
	Alias string       // of a link
	Addr  netip.Prefix // of an address
	Route Route        // if Subject is SubjectRoute; always of the main table
	ID    uint32       // of a nexthop object
	// Permanent: a neighbour or forwarding entry is one. A neighbour that is
	// deleted on request is announced as changed and not permanent, and as Gone
	// after that.
	Permanent bool
	Neighbour Neighbour
	FDB       FDB // of the link itself, not of a bridge above it
}

// Subscription receives notifications of links, addresses, nexthop objects and
// main-table routes of both families, and of neighbours and forwarding entries
// of the links that were told to Attend.
//
// Of what a Conn of this process changed, the kernel queues none where it tells
// who it was: it does not for links, for forwarding entries, and for the last
// word about a deleted neighbour. Nor does it tell of the routes that it drops
// with a link that goes down, or with a nexthop object.
type Subscription struct{ feed *feed }

// Subscribe opens a subscription in the namespace of the calling thread.
func Subscribe() (*Subscription, error) {
	sock, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := attach(sock, nil); err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	f, err := newFeed(sock, eventBuffer)
	if err != nil {
		return nil, err
	}
	_ = sock.JoinGroup(unix.RTNLGRP_NEXTHOP) // not before Linux 5.3, which has no objects to tell of
	for _, g := range []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEIGH,
	} {
		if err := f.join(g); err != nil {
			return nil, err
		}
	}
	return &Subscription{f}, nil
}

// Close ends the subscription.
func (s *Subscription) Close() error { return s.feed.sock.Close() }

// Attend makes neighbours and forwarding entries of these links, by index, and
// of no others come through.
func (s *Subscription) Attend(links []int) error { return attach(s.feed.sock, links) }

// Receive waits for notifications and passes each to visit. It returns
// ErrOverrun when some were lost, and the context's error when it ends.
func (s *Subscription) Receive(ctx context.Context, visit func(Event)) error {
	return s.feed.drain(ctx, func(datagram []byte) error {
		return eachMessage(datagram, func(h header, body []byte) error {
			if e, ok := decodeEvent(h, body); ok {
				visit(e)
			}
			return nil
		})
	})
}

// decodeEvent drops what concerns nobody: bridge port states, other tables,
// cached routes, neighbours that are proxies. What it cannot read it reports, so
// that somebody looks.
func decodeEvent(h header, b []byte) (Event, bool) {
	e := Event{Port: h.port}
	switch h.typ {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEXTHOP, unix.RTM_DELNEIGH:
		e.Gone = true
	}
	switch h.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, _ := decodeLink(b)
		e.Subject, e.Link, e.Name, e.Alias = SubjectLink, l.Index, l.Name, l.Alias
		return e, len(b) == 0 || b[0] != unix.AF_BRIDGE
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, _ := decodeAddress(b)
		e.Subject, e.Link, e.Addr = SubjectAddress, a.Link, a.Prefix
		return e, true
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		n, _ := decodeNexthop(b)
		e.Subject, e.ID = SubjectNexthop, n.ID
		return e, true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		d, err := decodeRoute(b)
		e.Subject, e.Route = SubjectRoute, d.Route
		return e, err != nil || d.table == unix.RT_TABLE_MAIN && !d.cloned
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return e, e.decodeNeighbour(b)
	default:
		return Event{}, false
	}
}

func (e *Event) decodeNeighbour(b []byte) bool {
	if len(b) < neighbourHeader {
		return false
	}
	m := decodeNdm(b)
	e.Link = m.link
	if m.family == unix.AF_BRIDGE {
		e.Subject = SubjectFDB
		e.FDB, e.Permanent, _ = decodeFDB(b, m.link)
		return m.flags&unix.NTF_SELF != 0
	}
	e.Subject = SubjectNeighbour
	f, ok := toFamily(m.family)
	e.Neighbour, e.Permanent, _ = decodeNeighbour(b, f, m.link)
	return ok && m.flags&unix.NTF_PROXY == 0
}
