package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// answerTime is how long a client may take to read an answer.
	answerTime = 10 * time.Second
	// watchEvery is how often the server looks whether its socket is still
	// there: for so long flanneld may not find its forwarder.
	watchEvery = time.Second
)

// ErrSucceeded says that another forwarder has the socket now.
var ErrSucceeded = errors.New("another forwarder has taken the socket")

// errHandedOver is the answer to a change that the successor would not see.
var errHandedOver = errors.New("handed over to a successor")

// Forwarder is what a server speaks for. It must be safe for concurrent use.
type Forwarder interface {
	// Status leaves Hello empty.
	Status() Status
	// Change changes all that is told, or nothing and says why.
	Change(ctx context.Context, c Change) error
	// Descriptors are duplicates, which the caller closes. Both sides may read
	// from them: each packet goes to one. resume is called if only this side
	// goes on.
	Descriptors() (ds []Descriptor, resume func(), err error)
	// Stop lets packets in hand go their way, and takes no more.
	Stop()
}

// Server answers for one forwarder on one socket.
type Server struct {
	path      string
	hello     Hello
	forwarder Forwarder
	log       *slog.Logger

	mu       sync.Mutex
	socket   socket
	heir     *net.UnixConn // who took the descriptors and has not let go yet
	resume   func()        // if it goes
	conns    map[*net.UnixConn]struct{}
	ended    bool          // no client is taken any more
	quit     chan struct{} // closed when told to end
	quitting sync.Once
	running  sync.WaitGroup
}

// Serving says for whom a server answers, and where.
type Serving struct {
	Socket    string // path
	Hello     Hello
	Forwarder Forwarder
	Log       *slog.Logger
}

// Listen takes the socket, from whoever has it: clients that connect from now
// on come here, and are answered once Serve runs.
func Listen(ctx context.Context, o Serving) (*Server, error) {
	sock, err := bind(ctx, o.Socket, os.Rename)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", o.Socket, err)
	}
	return &Server{
		path: o.Socket, hello: o.Hello, forwarder: o.Forwarder, log: o.Log,
		socket: sock, conns: map[*net.UnixConn]struct{}{}, quit: make(chan struct{}),
	}, nil
}

// Serve answers until a client says quit or ctx ends, and then returns nil, or
// until another forwarder has the socket (ErrSucceeded). The forwarder is
// stopped in each case.
func (s *Server) Serve(ctx context.Context) error {
	s.running.Go(func() { s.accept(ctx, s.socket.listener) })
	err := s.watch(ctx)
	s.forwarder.Stop()
	s.mu.Lock()
	if s.heir == nil && s.socket.isAt(s.path) {
		_ = os.Remove(s.path) // a leftover counts as nobody
	}
	s.ended = true
	err = errors.Join(err, s.socket.listener.Close())
	for conn := range s.conns {
		_ = conn.Close() // its goroutine sees it
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

// watch waits for the end, and looks after the socket meanwhile.
func (s *Server) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.quit:
			return nil
		case <-tick.C:
		}
		switch err := s.keepSocket(ctx); {
		case errors.Is(err, ErrSucceeded):
			return err
		case err != nil:
			s.log.Warn("socket not made again", "socket", s.path, "err", err)
		}
	}
}

// keepSocket makes the socket anew if it has gone. While an heir is there the
// place is the heir's.
func (s *Server) keepSocket(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heir != nil || s.socket.isAt(s.path) {
		return nil
	}
	place := os.Link // refuses if a successor came between
	switch conn, err := connect(ctx, s.path); {
	case err == nil:
		return errors.Join(ErrSucceeded, conn.Close())
	case !errors.Is(err, ErrNoForwarder):
		return err
	case exists(s.path):
		place = os.Rename // of one that died before it took over
	}
	anew, err := bind(ctx, s.path, place)
	if err != nil {
		return err
	}
	old := s.socket.listener
	s.socket = anew
	s.log.Warn("socket was taken away and is made again", "socket", s.path)
	s.running.Go(func() { s.accept(ctx, anew.listener) })
	return old.Close()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// accept takes clients until l is closed.
func (s *Server) accept(ctx context.Context, l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Warn("client not accepted", "err", err)
			if !pause(ctx) {
				return
			}
			continue
		}
		if err := trusted(conn); err != nil {
			s.log.Warn("client refused", "err", err)
			_ = conn.Close()
			continue
		}
		s.meet(ctx, conn)
	}
}

func (s *Server) meet(ctx context.Context, conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = conn.Close() // nothing was said yet
		return
	}
	s.conns[conn] = struct{}{}
	s.running.Go(func() { s.converse(ctx, conn) })
}

// pause keeps a lack of descriptors from becoming a busy loop.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(watchEvery):
		return true
	case <-ctx.Done():
		return false
	}
}

// converse answers one client until it leaves or talks nonsense.
func (s *Server) converse(ctx context.Context, conn *net.UnixConn) {
	defer s.forget(conn)
	for {
		var r request
		if err := readFrame(conn, &r); err != nil {
			if errors.Is(err, ErrFrame) {
				s.log.Warn("client dropped", "err", err)
			}
			return
		}
		a, files := s.reply(ctx, conn, r)
		_ = conn.SetWriteDeadline(time.Now().Add(answerTime)) // fails if closed: so does send
		err := send(conn, a, files)
		for _, f := range files {
			_ = f.File.Close() // a duplicate
		}
		if r.Do == doQuit {
			s.quitting.Do(func() { close(s.quit) })
			continue // Serve ends the conversation, when nobody finds the socket any more
		}
		if err != nil {
			return
		}
	}
}

// forget lets a client go. An heir that goes without saying quit has failed:
// we carry on.
func (s *Server) forget(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heir == conn {
		s.heir = nil
		s.resume()
	}
	delete(s.conns, conn)
	_ = conn.Close() // nothing is unsent
}

func (s *Server) reply(ctx context.Context, conn *net.UnixConn, r request) (answer, []Descriptor) {
	switch r.Do {
	case doHello:
		return answer{Hello: &s.hello}, nil
	case doStatus:
		return answer{Status: s.status()}, nil
	case doChange:
		return s.change(ctx, r.Change), nil
	case doHandover:
		return s.handover(conn)
	case doQuit:
		s.forwarder.Stop()
		return answer{Hello: &s.hello, Status: s.status()}, nil
	default:
		return answer{Error: fmt.Sprintf("%q is unknown to version %d", r.Do, Version)}, nil
	}
}

func (s *Server) status() *Status {
	st := s.forwarder.Status()
	st.Hello = s.hello
	return &st
}

func (s *Server) change(ctx context.Context, c *Change) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.heir != nil:
		return answer{Error: errHandedOver.Error()}
	case c == nil:
		return answer{Error: "change of nothing"}
	}
	if err := s.forwarder.Change(ctx, *c); err != nil {
		return answer{Error: err.Error()}
	}
	return answer{}
}

// handover gives what we work with to the client, and goes on until it says
// quit.
func (s *Server) handover(conn *net.UnixConn) (answer, []Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heir != nil && s.heir != conn {
		return answer{Error: errHandedOver.Error()}, nil
	}
	files, resume, err := s.forwarder.Descriptors()
	if err != nil {
		return answer{Error: err.Error()}, nil
	}
	s.heir, s.resume = conn, resume
	a := answer{Hello: &s.hello, Status: s.status()}
	for _, f := range files {
		a.Roles = append(a.Roles, f.Role)
	}
	return a, files
}

// trusted says whether the client may command us: root, or who we are.
func trusted(conn *net.UnixConn) error {
	cred, err := peer(conn)
	if err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("process %d of user %d: %w", cred.Pid, cred.Uid, fs.ErrPermission)
	}
	return nil
}

// peer tells who is on the other side: for a client, who called listen.
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cause error
	if err := raw.Control(func(fd uintptr) {
		cred, cause = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if cause != nil {
		return nil, fmt.Errorf("credentials of the other side: %w", cause)
	}
	return cred, nil
}

// send writes a frame; descriptors go with its first bytes.
func send(conn *net.UnixConn, a answer, files []Descriptor) error {
	b, err := encode(a)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		if err := sendDescriptors(conn, b[:frameHeader], files); err != nil {
			return err
		}
		b = b[frameHeader:]
	}
	_, err = conn.Write(b)
	return err
}

func sendDescriptors(conn *net.UnixConn, head []byte, files []Descriptor) error {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fds = append(fds, int(f.File.Fd()))
	}
	n, _, err := conn.WriteMsgUnix(head, unix.UnixRights(fds...), nil)
	if err == nil && n < len(head) {
		err = io.ErrShortWrite
	}
	return err
}
