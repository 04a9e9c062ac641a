package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/lab"
)

// board counts the pairs that are programmed, by what the kernels tell.
type board struct {
	files []*os.File
	done  sync.WaitGroup

	mu      sync.Mutex
	routes  []map[netip.Prefix]bool // by host
	changes []change                // of the number of pairs, since the last await
	total   int
	err     error         // of a reader
	moved   chan struct{} // closed at the next change
}

// change is a moment and how many pairs were programmed then.
type change struct {
	at    time.Time
	total int
}

// buffer is that of a socket that hears of routes, in bytes.
const buffer = 8 << 20

// checking is how often who waits looks whether there is something to wait for.
const checking = 500 * time.Millisecond

// watchRoutes follows the routes of all hosts. They have none to others yet.
func watchRoutes(hosts []*lab.Host) (*board, error) {
	b := &board{routes: make([]map[netip.Prefix]bool, len(hosts)), moved: make(chan struct{})}
	for i, h := range hosts {
		b.routes[i] = map[netip.Prefix]bool{}
		var file *os.File
		err := h.Inside(func() (err error) {
			file, err = listen(h.Name)
			return err
		})
		if err != nil {
			b.close()
			return nil, fmt.Errorf("routes of %s: %w", h.Name, err)
		}
		b.files = append(b.files, file)
		b.done.Go(func() { b.read(i, file) })
	}
	return b, nil
}

// listen opens a socket that hears of IPv4 routes in the network it is made in.
func listen(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "routes of "+name)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		return nil, errors.Join(fmt.Errorf("receive buffer: %w", err), file.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_ROUTE}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind: %w", err), file.Close())
	}
	return file, nil
}

// close ends the readers and waits for them.
func (b *board) close() {
	for _, f := range b.files {
		_ = f.Close()
	}
	b.done.Wait()
}

func (b *board) read(host int, file *os.File) {
	raw := make([]byte, 1<<16)
	for {
		n, err := file.Read(raw)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		b.mu.Lock()
		if err != nil {
			b.err = fmt.Errorf("%s: %w", file.Name(), err) // an overrun: the count is worth nothing
		} else {
			b.take(host, raw[:n])
		}
		close(b.moved)
		b.moved = make(chan struct{})
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take reads route messages. The caller holds mu.
func (b *board) take(host int, raw []byte) {
	for len(raw) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(raw))
		if size < unix.SizeofNlMsghdr || size > len(raw) {
			return
		}
		kind := binary.NativeEndian.Uint16(raw[4:])
		if to, ok := peerRoute(raw[unix.SizeofNlMsghdr:size]); ok {
			b.count(host, to, kind == unix.RTM_NEWROUTE)
		}
		raw = raw[min(len(raw), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
}

func (b *board) count(host int, to netip.Prefix, there bool) {
	if b.routes[host][to] == there {
		return
	}
	if there {
		b.routes[host][to] = true
		b.total++
	} else {
		delete(b.routes[host], to)
		b.total--
	}
	b.changes = append(b.changes, change{time.Now(), b.total})
}

// peerRoute is the destination of a route in the main table if it is the subnet
// of a host.
func peerRoute(m []byte) (netip.Prefix, bool) {
	if len(m) < unix.SizeofRtMsg || m[0] != unix.AF_INET || m[1] != 24 || m[4] != unix.RT_TABLE_MAIN {
		return netip.Prefix{}, false
	}
	for attrs := m[unix.SizeofRtMsg:]; len(attrs) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.SizeofRtAttr || size > len(attrs) {
			break
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == unix.RTA_DST && size == unix.SizeofRtAttr+4 {
			dst := netip.AddrFrom4([4]byte(attrs[unix.SizeofRtAttr:size]))
			return netip.PrefixFrom(dst, 24), cluster().Contains(dst)
		}
		attrs = attrs[min(len(attrs), (size+3)&^3):]
	}
	return netip.Prefix{}, false
}

// cluster is the network of the lab's containers.
func cluster() netip.Prefix { return netip.MustParsePrefix("10.5.0.0/16") }

func (b *board) programmed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

var errPairs = errors.New("pairs are missing or too many")

// await waits until so many pairs are programmed and says when half of the way
// and when the end was reached. An error of check ends the wait.
func (b *board) await(ctx context.Context, pairs int, check func() error) (half, last time.Time, err error) {
	beat := time.NewTicker(checking)
	defer beat.Stop()
	for {
		b.mu.Lock()
		total, moved, err := b.total, b.moved, b.err
		if err == nil && total == pairs {
			half, last = b.passed()
			b.changes = nil
			b.mu.Unlock()
			return half, last, nil
		}
		b.mu.Unlock()
		if err != nil {
			return half, last, err
		}
		select {
		case <-moved:
		case <-beat.C:
			if err := check(); err != nil {
				return half, last, err
			}
		case <-ctx.Done():
			return half, last, fmt.Errorf("%d of %d programmed: %w: %w", total, pairs, errPairs, ctx.Err())
		}
	}
}

// passed finds the moments in changes. The caller holds mu.
func (b *board) passed() (half, last time.Time) {
	if len(b.changes) == 0 {
		return time.Now(), time.Now()
	}
	return b.changes[len(b.changes)/2].at, b.changes[len(b.changes)-1].at
}
