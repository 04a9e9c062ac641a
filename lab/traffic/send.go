package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Streams sends on n TCP connections until ctx ends.
func Streams(ctx context.Context, to netip.Addr, n int) error {
	failed := make(chan error, n)
	for range n {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(to, portStream).String())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stream: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		go func() { failed <- fill(conn) }()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		if ctx.Err() != nil {
			return nil // the connection was closed because the time is over
		}
		return fmt.Errorf("stream: %w", err)
	}
}

func fill(conn net.Conn) error {
	buf := make([]byte, 256<<10)
	for {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
}

// Flood sends datagrams with so many bytes as fast as it can until ctx ends,
// and does not care for those that find a full queue.
func Flood(ctx context.Context, to netip.Addr, size int) error {
	fd, err := dialUDP(netip.AddrPortFrom(to, portFlood))
	if err != nil {
		return err
	}
	b := newBatch(size)
	for ctx.Err() == nil {
		if _, err := b.move(unix.SYS_SENDMMSG, fd, 0); err != nil && !lost(err) {
			return errors.Join(fmt.Errorf("flood: %w", err), unix.Close(fd))
		}
	}
	return unix.Close(fd)
}

// Trips is how long round trips took, one at a time.
type Trips struct {
	Count, Lost int
	P50, P99    time.Duration
}

// Ask sends a datagram of so many bytes, waits for its echo, and so on until ctx
// ends. The Trips go to out as JSON.
func Ask(ctx context.Context, to netip.Addr, size int, out io.Writer) error {
	fd, err := dialUDP(netip.AddrPortFrom(to, portEcho))
	if err != nil {
		return err
	}
	patience := unix.NsecToTimeval(int64(200 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return errors.Join(fmt.Errorf("receive timeout: %w", err), unix.Close(fd))
	}
	var over atomic.Bool // cheaper to look at than ctx
	stop := context.AfterFunc(ctx, func() { over.Store(true) })
	defer stop()
	took := make([]time.Duration, 0, 1<<17)
	buf, missing := make([]byte, size), 0
	for !over.Load() {
		begin := time.Now()
		_, err := unix.Write(fd, buf)
		if err == nil {
			_, err = unix.Read(fd, buf)
		}
		switch {
		case err == nil:
			took = append(took, time.Since(begin))
		case lost(err):
			missing++
		case !errors.Is(err, unix.EINTR):
			return errors.Join(fmt.Errorf("ask: %w", err), unix.Close(fd))
		}
	}
	if err := json.NewEncoder(out).Encode(summary(took, missing)); err != nil {
		return fmt.Errorf("tell round trips: %w", err)
	}
	return unix.Close(fd)
}

// summary sorts took.
func summary(took []time.Duration, missing int) Trips {
	t := Trips{Count: len(took), Lost: missing}
	if len(took) > 0 {
		slices.Sort(took)
		t.P50, t.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return t
}
