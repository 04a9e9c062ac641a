package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/lab"
)

// lookup asks a host's kernel which route a packet would take: it costs the host
// a few microseconds, where reading 20,000 routes costs tens of milliseconds
// and would disturb what is measured. It speaks netlink by itself, so that it
// is no part of what it judges.
type lookup struct {
	fd  int
	buf []byte
}

// chunk is how many answers are on the way at once, at most.
const chunk = 64

// Constants of rtnetlink(7) that the unix package lacks.
const (
	fibMatch     = 0x2000 // RTM_F_FIB_MATCH: tell the route that matched, as it stands in the table
	headerLength = 16     // struct nlmsghdr
	routeLength  = 12     // struct rtmsg
)

func newLookup(h *lab.Host) (*lookup, error) {
	l := &lookup{buf: make([]byte, 1<<16)}
	err := h.Inside(func() (err error) {
		l.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		patience := unix.Timeval{Sec: 5}
		return errors.Join(
			unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	})
	if err != nil {
		return nil, fmt.Errorf("route lookups on %s: %w", h.Name, err)
	}
	return l, nil
}

func (l *lookup) close() error { return unix.Close(l.fd) }

// lengths are the prefix lengths of the routes to addrs, at most chunk of them;
// -1 where there is none.
func (l *lookup) lengths(addrs []netip.Addr) ([]int, error) {
	var request []byte
	for i, a := range addrs {
		request = appendLookup(request, uint32(i), a)
	}
	if err := unix.Sendto(l.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for routes: %w", err)
	}
	found := make([]int, len(addrs))
	for got := 0; got < len(addrs); {
		n, _, err := unix.Recvfrom(l.fd, l.buf, 0)
		if err != nil {
			return nil, fmt.Errorf("ask for routes: %w", err)
		}
		for msg := l.buf[:n]; len(msg) >= headerLength; got++ {
			length := int(binary.NativeEndian.Uint32(msg))
			index, prefix := parseLookup(msg)
			if index < len(found) {
				found[index] = prefix
			}
			msg = msg[min(max(align(length), headerLength), len(msg)):]
		}
	}
	return found, nil
}

func align(n int) int { return (n + 3) &^ 3 }

// appendLookup appends an RTM_GETROUTE for the route to a.
func appendLookup(b []byte, index uint32, a netip.Addr) []byte {
	raw := a.AsSlice()
	attribute := 4 + len(raw)
	b = binary.NativeEndian.AppendUint32(b, uint32(headerLength+routeLength+attribute))
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_GETROUTE)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, index)
	b = append(b, 0, 0, 0, 0) // from the kernel's choice of port
	b = append(b, familyNumber(a), byte(8*len(raw)), 0, 0, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, fibMatch)
	b = binary.NativeEndian.AppendUint16(b, uint16(attribute))
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_DST)
	return append(b, raw...)
}

func familyNumber(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// parseLookup reads an answer: whose it is, and the length of the route's
// prefix. An error means that there is no route.
func parseLookup(msg []byte) (index, prefix int) {
	index = int(binary.NativeEndian.Uint32(msg[8:]))
	if binary.NativeEndian.Uint16(msg[4:]) != unix.RTM_NEWROUTE || len(msg) < headerLength+routeLength {
		return index, -1
	}
	return index, int(msg[headerLength+1])
}

// lookEvery is the pause between two looks at what has not come yet.
const lookEvery = 2 * time.Millisecond

// await returns when the kernel has a route of exactly each subnet, or, with
// want false, of none. What is not there is asked for again and again, a chunk
// at a time, so a caller does better with subnets in no particular order.
func (l *lookup) await(ctx context.Context, subnets []netip.Prefix, want bool) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(subnets) > 0 {
		now := min(chunk, len(subnets))
		missing, err := l.missing(subnets[:now], want)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			subnets = subnets[now:]
			continue
		}
		subnets = append(missing, subnets[now:]...)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d routes, %s among them, are not as wanted: %w", len(subnets), subnets[0], ctx.Err())
		}
	}
	return nil
}

// missing are those of which it is not as wanted.
func (l *lookup) missing(subnets []netip.Prefix, want bool) ([]netip.Prefix, error) {
	addrs := make([]netip.Addr, len(subnets))
	for i, s := range subnets {
		addrs[i] = s.Addr().Next()
	}
	lengths, err := l.lengths(addrs)
	if err != nil {
		return nil, err
	}
	var missing []netip.Prefix
	for i, s := range subnets {
		if (lengths[i] == s.Bits()) != want {
			missing = append(missing, s)
		}
	}
	return missing, nil
}
