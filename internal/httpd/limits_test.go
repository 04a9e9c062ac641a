package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/httpd"
)

// pipes is a listener in memory, so that its time can be a test's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.done); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial connects, if the server takes one more connection at all.
func (p *pipes) dial() (net.Conn, bool) {
	ours, theirs := net.Pipe()
	synctest.Wait()
	select {
	case p.conns <- theirs:
		return ours, true
	default:
		return nil, false
	}
}

func (p *pipes) mustDial(t *testing.T) net.Conn {
	t.Helper()
	c, ok := p.dial()
	if !ok {
		t.Fatal("no connection")
	}
	return c
}

// served runs test against h in a bubble of its own time.
func served(t *testing.T, h http.HandlerFunc, log *slog.Logger, test func(*testing.T, *pipes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- httpd.Serve(ctx, l, h, log) }()
		test(t, l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ask sends text and returns the body of the answer.
func ask(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// mustEnd fails unless the server hangs up on c within seconds.
func mustEnd(t *testing.T, c net.Conn, what string) {
	t.Helper()
	err := c.SetReadDeadline(time.Now().Add(6 * time.Second))
	if err != nil && !errors.Is(err, io.ErrClosedPipe) { // that is an end, too
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection stays", what)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

const plainGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestSilentClientsAreHungUpOn(t *testing.T) {
	hello := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }
	served(t, hello, silent(), func(t *testing.T, l *pipes) {
		c := l.mustDial(t)
		mustEnd(t, c, "nothing sent")
		c = l.mustDial(t)
		if got := ask(t, c, plainGet); got != "hello" {
			t.Errorf("got %q", got)
		}
		mustEnd(t, c, "idle after an answer")
		c = l.mustDial(t)
		go func() { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n") }()
		mustEnd(t, c, "a body that never comes")
	})
}

// The limit on reading is none on the time that an answer takes.
func TestLongAnswerKeepsItsContext(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			_, _ = io.WriteString(w, "cancelled")
		case <-time.After(30 * time.Second):
			_, _ = io.WriteString(w, "planned")
		}
	}
	served(t, slow, silent(), func(t *testing.T, l *pipes) {
		c := l.mustDial(t)
		if got := ask(t, c, plainGet); got != "planned" {
			t.Errorf("got %q", got)
		}
		mustEnd(t, c, "after a long answer")
	})
}

func TestClientsAreLimited(t *testing.T) {
	served(t, http.NotFound, silent(), func(t *testing.T, l *pipes) {
		var held []net.Conn
		for c, ok := l.dial(); ok && len(held) < 100; c, ok = l.dial() {
			held = append(held, c)
		}
		if len(held) != 64 {
			t.Errorf("%d connections at a time, want 64", len(held))
		}
		for _, c := range held {
			mustEnd(t, c, "one of many")
		}
		mustEnd(t, l.mustDial(t), "the first of the next")
	})
}

func TestPanicGoesToTheLog(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	served(t, func(http.ResponseWriter, *http.Request) { panic("oops") }, log, func(t *testing.T, l *pipes) {
		c := l.mustDial(t)
		if _, err := io.WriteString(c, plainGet); err != nil {
			t.Fatal(err)
		}
		mustEnd(t, c, "a panic")
	})
	if !strings.Contains(text.String(), "oops") {
		t.Errorf("log: %s", text.String())
	}
}
