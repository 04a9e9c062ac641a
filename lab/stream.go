package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Stream is one TCP connection between two containers, with bytes under way all
// the time.
type Stream struct {
	conn net.Conn
	ear  net.Listener
	stop context.CancelFunc

	echoed sync.WaitGroup
	sent   chan error // how the sender ended
}

const (
	streamEvery   = 10 * time.Millisecond
	streamPatient = 30 * time.Second // how long an echo may take
)

// StartStream connects, and sends small pieces until Stop. Each must come back.
func StartStream(ctx context.Context, w Way) (*Stream, error) {
	ear, err := w.To.listen(ctx, "tcp", netip.AddrPortFrom(w.To.Addr(w.Family), 0).String())
	if err != nil {
		return nil, err
	}
	s := &Stream{ear: ear, sent: make(chan error, 1)}
	s.echoed.Go(s.echo)
	if s.conn, err = w.From.Dial(ctx, Origin{}, "tcp", ear.Addr().String()); err != nil {
		_ = ear.Close()
		return nil, err
	}
	ctx, s.stop = context.WithCancel(ctx)
	go func() { s.sent <- s.send(ctx) }()
	return s, nil
}

func (s *Stream) echo() {
	conn, err := s.ear.Accept()
	if err != nil {
		return // the sender hears nothing
	}
	_, _ = io.Copy(conn, conn)
	_ = conn.Close()
}

func (s *Stream) send(ctx context.Context) error {
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	piece, back := make([]byte, 512), make([]byte, 512)
	for ctx.Err() == nil {
		_ = s.conn.SetDeadline(time.Now().Add(streamPatient))
		if _, err := s.conn.Write(piece); err != nil {
			return fmt.Errorf("TCP: %w", err)
		}
		if _, err := io.ReadFull(s.conn, back); err != nil {
			return fmt.Errorf("TCP: %w", err)
		}
		<-tick.C
	}
	return nil
}

// Stop ends the connection. The error is what broke it before.
func (s *Stream) Stop() error {
	s.stop()
	err := <-s.sent
	_ = s.conn.Close()
	_ = s.ear.Close()
	s.echoed.Wait()
	return err
}
