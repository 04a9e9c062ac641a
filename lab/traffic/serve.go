package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Where the server listens.
const (
	portStream uint16 = 7101 + iota // TCP, discarded
	portFlood                       // UDP, counted
	portEcho                        // UDP, sent back
)

// Count is what has arrived so far.
type Count struct {
	At        time.Duration // since the server started
	Bytes     uint64        // of TCP streams
	Datagrams uint64        // of floods
}

// server counts.
type server struct {
	begin            time.Time
	bytes, datagrams atomic.Uint64
}

// Serve takes all kinds of traffic, says "ready", and answers each line of
// orders with a Count until they end.
func Serve(ctx context.Context, orders io.Reader, out io.Writer) error {
	s := &server{begin: time.Now()}
	tcp, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", portStream))
	if err != nil {
		return fmt.Errorf("listen for streams: %w", err)
	}
	flood, err1 := listenUDP(portFlood)
	echo, err2 := listenUDP(portEcho)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	failed := make(chan error, 4)
	go func() { failed <- s.streams(tcp) }()
	go func() { failed <- s.count(flood) }()
	go func() { failed <- reflect(echo) }()
	go func() { failed <- s.answer(orders, out) }()
	return <-failed // the process ends with it, and so do the others
}

func (s *server) answer(orders io.Reader, out io.Writer) error {
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	lines := bufio.NewScanner(orders)
	for lines.Scan() {
		err := encoder.Encode(Count{At: time.Since(s.begin), Bytes: s.bytes.Load(), Datagrams: s.datagrams.Load()})
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return lines.Err()
}

// streams discards what every connection brings.
func (s *server) streams(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go s.discard(conn)
	}
}

func (s *server) discard(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 256<<10)
	for {
		n, err := conn.Read(buf)
		s.bytes.Add(uint64(n))
		if err != nil {
			return // the sender is done
		}
	}
}

func (s *server) count(fd int) error {
	b := newBatch(2048)
	for {
		n, err := b.move(unix.SYS_RECVMMSG, fd, unix.MSG_WAITFORONE)
		if err != nil {
			return fmt.Errorf("receive flood: %w", err)
		}
		s.datagrams.Add(uint64(n))
	}
}

// reflect sends every datagram back to where it came from.
func reflect(fd int) error {
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err == nil {
			err = unix.Sendto(fd, buf[:n], 0, from)
		}
		if err != nil && !lost(err) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("echo: %w", err)
		}
	}
}
