package nl

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrOverrun says that notifications were lost, and that more may be until a
// new subscription is made: a congested socket drops them silently.
var ErrOverrun = errors.New("netlink notifications lost")

// Subject is what a notification is about.
type Subject uint8

// The subjects.
const (
	SubjectLink Subject = iota + 1
	SubjectAddress
	SubjectRoute
	SubjectNexthop
)

// Event is a notification: something of Subject changed.
type Event struct {
	Subject  Subject
	Gone     bool   // removed
	Link     int    // index, of a link or an address
	Name     string // of a link
	Route    Route  // if Subject is SubjectRoute; always of the main table
	Protocol uint8  // of a nexthop object
}

// Subscription receives notifications of links, addresses, nexthop objects and
// main-table routes of both families, but for those of changes that a Conn of
// this process made: of those, the kernel queues none.
//
// There are none of neighbours and forwarding entries: those that a host learns
// by itself come and go all the time. Nor does the kernel tell of the routes
// that it drops with a link that goes down, or with a nexthop object.
type Subscription struct {
	sock *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
}

// Subscribe opens a subscription in the namespace of the calling thread.
func Subscribe() (*Subscription, error) {
	sock, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := ignoreOwn(sock); err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	for _, g := range []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP,
	} {
		if g == unix.RTNLGRP_NEXTHOP {
			_ = sock.JoinGroup(g) // not before Linux 5.3, which has no objects to tell of
			continue
		}
		if err := sock.JoinGroup(g); err != nil {
			return nil, errors.Join(fmt.Errorf("join netlink group %d: %w", g, err), sock.Close())
		}
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), sock.Close())
	}
	return &Subscription{sock: sock, raw: raw, buf: make([]byte, datagramSize)}, nil
}

// Close ends the subscription.
func (s *Subscription) Close() error { return s.sock.Close() }

// Receive waits for notifications and passes each to visit. It returns
// ErrOverrun when some were lost, and the context's error when it ends.
func (s *Subscription) Receive(ctx context.Context, visit func(Event)) error {
	stop := context.AfterFunc(ctx, func() { _ = s.sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := read(s.raw, s.buf)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.ENOBUFS):
		return ErrOverrun
	case err != nil:
		return err
	}
	return eachMessage(s.buf[:n], func(h header, body []byte) error {
		if e, ok := decodeEvent(h, body); ok {
			visit(e)
		}
		return nil
	})
}

// decodeEvent drops what concerns nobody: bridge port states, other tables,
// cached routes. What it cannot read it reports, so that somebody looks.
func decodeEvent(h header, b []byte) (Event, bool) {
	gone := false
	switch h.typ {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEXTHOP:
		gone = true
	}
	switch h.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, _ := decodeLink(b)
		return Event{Subject: SubjectLink, Gone: gone, Link: l.Index, Name: l.Name}, len(b) == 0 || b[0] != unix.AF_BRIDGE
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, _ := decodeAddress(b)
		return Event{Subject: SubjectAddress, Gone: gone, Link: a.Link}, true
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		n, _ := decodeNexthop(b)
		return Event{Subject: SubjectNexthop, Gone: gone, Protocol: n.Protocol}, true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		d, err := decodeRoute(b)
		return Event{Subject: SubjectRoute, Gone: gone, Route: d.Route},
			err != nil || d.table == unix.RT_TABLE_MAIN && !d.cloned
	default:
		return Event{}, false
	}
}
