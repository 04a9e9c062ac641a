package tunnel_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// lingerVerb makes the test binary a forwarder that does not answer.
const lingerVerb = "linger"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == lingerVerb {
		if err := linger(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// linger listens and never answers. On SIGTERM it closes what it has, and ends
// a while later.
func linger(path string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	<-term
	if err := errors.Join(conn.Close(), l.Close()); err != nil {
		return err
	}
	<-time.After(300 * time.Millisecond)
	return nil
}

const timeout = 10 * time.Second

// fake is a forwarder without packets.
type fake struct {
	mu      sync.Mutex
	status  tunnel.Status
	files   []*os.File // what it hands over, as UDP sockets
	stopped bool
	resumed atomic.Int32
}

func (f *fake) Status() tunnel.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fake) Change(_ context.Context, c tunnel.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Config != nil && c.Config.Port == 0 {
		return errors.New("port 0")
	}
	f.status.Config = c.Config
	f.status.Peers = append(f.status.Peers, c.Put...)
	return nil
}

func (f *fake) Descriptors() ([]tunnel.Descriptor, func(), error) {
	var out []tunnel.Descriptor
	for _, file := range f.files {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, tunnel.Descriptor{Role: tunnel.RoleUDP, File: os.NewFile(uintptr(fd), "duplicate")})
	}
	return out, func() { f.resumed.Add(1) }, nil
}

// Stop counts one packet more: one that was in hand.
func (f *fake) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopped {
		f.stopped = true
		f.status.Counters.SentPackets++
	}
}

func (f *fake) isStopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}

func socket(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "run", "a.sock") // short: it may have 107 bytes
}

// serve answers for f on path. What ended it comes from the channel.
func serve(t *testing.T, path string, f *fake) (stop func(), ended <-chan error) {
	t.Helper()
	s, err := tunnel.Listen(t.Context(), tunnel.Serving{
		Socket: path, Hello: hello(), Forwarder: f, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	end, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		end <- s.Serve(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop, end
}

func hello() tunnel.Hello {
	return tunnel.Hello{Version: tunnel.Version, Build: "v1.2.3", PID: os.Getpid()}
}

func dial(t *testing.T, path string) *tunnel.Client {
	t.Helper()
	c, err := tunnel.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(timeout); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func ending(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(timeout):
		t.Fatal("it does not end")
		return nil
	}
}

func TestConversation(t *testing.T) {
	path, f := socket(t), &fake{}
	serve(t, path, f)
	one, two := dial(t, path), dial(t, path)
	if one.Hello() != hello() {
		t.Errorf("hello %+v", one.Hello())
	}
	many := make([]tunnel.Peer, 20_000)
	for i := range many {
		many[i] = tunnel.Peer{Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Dst: netip.MustParseAddr("192.0.2.1")}
	}
	c := tunnel.Change{Config: &tunnel.Config{Link: "flannel0", Port: 8285}, Put: many}
	if err := one.Change(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s, err := two.Status(t.Context())
	if err != nil || s.Hello != hello() || !reflect.DeepEqual(s.Peers, many) || !reflect.DeepEqual(s.Config, c.Config) {
		t.Errorf("status with %d peers, config %+v, %v", len(s.Peers), s.Config, err)
	}
	if err := one.Change(t.Context(), tunnel.Change{Config: &tunnel.Config{}}); err == nil || !strings.HasSuffix(err.Error(), "port 0") {
		t.Errorf("refused change: %v", err)
	}
	if _, err := one.Status(t.Context()); err != nil {
		t.Errorf("after a refused change: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Questions of many at once get their own answers.
func TestManyAtOnce(t *testing.T) {
	path := socket(t)
	serve(t, path, &fake{})
	shared := dial(t, path)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			own, err := tunnel.Dial(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			for range 20 {
				if _, err := own.Status(t.Context()); err != nil {
					t.Error(err)
				}
				if err := shared.Change(t.Context(), tunnel.Change{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestNobody(t *testing.T) {
	path := socket(t)
	nobody := func(when string) {
		t.Helper()
		if _, err := tunnel.Dial(t.Context(), path); !errors.Is(err, tunnel.ErrNoForwarder) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := tunnel.Succeed(t.Context(), path, slog.New(slog.DiscardHandler)); !errors.Is(err, tunnel.ErrNoForwarder) {
			t.Errorf("%s: succeed: %v", when, err)
		}
	}
	nobody("before")
	stop, _ := serve(t, path, &fake{})
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket is left: %v", err)
	}
	nobody("afterwards")
	deaf(t, path).Close()
	nobody("leftover")
	serve(t, path, &fake{})
	dial(t, path)
}

// deaf makes a socket that nobody answers on.
func deaf(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l
}

// One that is there and says nothing is no "nobody", and costs no more than
// the time that it is given. It is this very process, so it is not killed.
func TestSilent(t *testing.T) {
	path := socket(t)
	deaf(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := tunnel.Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dial: %v", err)
	}
	_, err := tunnel.Succeed(t.Context(), path, slog.New(slog.DiscardHandler))
	if err == nil || errors.Is(err, tunnel.ErrNoForwarder) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("succeed: %v", err)
	}
}

// A forwarder that is ended has ended, and not only its conversation: what it
// had open is free.
func TestEndedIsDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", lingerVerb, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // it is buried below
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatal(line, err)
	}
	if _, err := tunnel.Succeed(t.Context(), path, slog.New(slog.DiscardHandler)); !errors.Is(err, tunnel.ErrNoForwarder) {
		t.Errorf("succeeded one that does not answer: %v", err)
	}
	if pid, err := unix.Wait4(cmd.Process.Pid, nil, unix.WNOHANG, nil); err != nil || pid != cmd.Process.Pid {
		t.Errorf("it is still there: %d, %v", pid, err)
	}
}

// A question that is given up ends the conversation: its late answer must not
// become that of the next.
func TestGivenUp(t *testing.T) {
	path, f := socket(t), &fake{}
	serve(t, path, f)
	c := dial(t, path)
	f.mu.Lock() // no answer to a status now
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Status(ctx)
	f.mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("status: %v", err)
	}
	<-c.Done()
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("the conversation goes on")
	}
	dial(t, path)
}

func TestQuit(t *testing.T) {
	path, f := socket(t), &fake{}
	_, ended := serve(t, path, f)
	one, two := dial(t, path), dial(t, path)
	if err := one.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-two.Done()
	if err := ending(t, ended); err != nil || !f.isStopped() {
		t.Errorf("end: %v, stopped %v", err, f.isStopped())
	}
	if _, err := two.Status(t.Context()); err == nil {
		t.Error("answered after its end")
	}
}

// A forwarder of a version to come is understood as far as the prelude goes.
func TestUnknownRequest(t *testing.T) {
	path := socket(t)
	serve(t, path, &fake{})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []struct{ ask, want string }{
		{"teleport", `"teleport" is unknown to version 1`}, {"change", "change of nothing"}, {"hello", ""},
	} {
		var a tunnel.Answer
		if err := errors.Join(tunnel.WriteFrame(conn, map[string]any{"do": c.ask, "new": 1}), tunnel.ReadFrame(conn, &a)); err != nil {
			t.Fatal(err)
		}
		if a.Error != c.want {
			t.Errorf("%s: %q, want %q", c.ask, a.Error, c.want)
		}
	}
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("nonsense was answered")
	}
}

// The successor gets what the forwarder works with, while that goes on.
func TestHandover(t *testing.T) {
	path := socket(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	f := &fake{files: []*os.File{w, w}}
	f.status.Peers = []tunnel.Peer{{Subnet: netip.MustParsePrefix("10.5.1.0/24"), Dst: netip.MustParseAddr("192.0.2.1")}}
	f.status.Counters.SentPackets = 41
	_, ended := serve(t, path, f)
	flanneld := dial(t, path)

	heir := succeed(t, path)
	if !reflect.DeepEqual(heir.Status.Peers, f.status.Peers) || heir.Status.Hello != hello() {
		t.Errorf("status %+v", heir.Status)
	}
	if len(heir.Descriptors) != 2 || heir.Descriptors[0].Role != tunnel.RoleUDP {
		t.Fatalf("descriptors %+v", heir.Descriptors)
	}
	if _, err := heir.Descriptors[1].File.WriteString("through"); err != nil {
		t.Error(err)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "through" {
		t.Errorf("%q, %v", got, err)
	}
	if f.isStopped() {
		t.Error("stopped before the successor said so")
	}
	// What it is told now would be lost.
	if err := flanneld.Change(t.Context(), tunnel.Change{}); err == nil {
		t.Error("changed after the handover")
	}
	serve(t, path, &fake{}) // the successor takes the socket
	counters, err := heir.Quit()
	if err != nil || counters.SentPackets != 42 {
		t.Errorf("%d packets at the end, %v", counters.SentPackets, err)
	}
	if err := ending(t, ended); err != nil {
		t.Error(err)
	}
	dial(t, path) // the successor's socket is still there
}

func succeed(t *testing.T, path string) *tunnel.Predecessor {
	t.Helper()
	p, err := tunnel.Succeed(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range p.Descriptors {
			d.File.Close()
		}
	})
	return p
}

// A successor that dies on the way leaves all as it was, even if it had put
// its socket in place already.
func TestSuccessorDies(t *testing.T) {
	path, f := socket(t), &fake{}
	serve(t, path, f)
	flanneld := dial(t, path)
	heir := succeed(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	deaf(t, path).Close()
	if err := heir.Abandon(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "changes are still refused", func() bool {
		return flanneld.Change(t.Context(), tunnel.Change{}) == nil
	})
	if n := f.resumed.Load(); n != 1 {
		t.Errorf("told %d times that it goes on alone", n)
	}
	eventually(t, "the socket is not taken back", func() bool { return answers(t, path) })
}

func answers(t *testing.T, path string) bool {
	t.Helper()
	c, err := tunnel.Dial(t.Context(), path)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

func TestSocketDeleted(t *testing.T) {
	path := socket(t)
	serve(t, path, &fake{})
	c := dial(t, path)
	for range 2 {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the socket is not made again", func() bool { return answers(t, path) })
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("a conversation that was open: %v", err)
	}
}

// Another forwarder has the socket, and did not say so: two would fight.
func TestSucceededInSilence(t *testing.T) {
	path, f := socket(t), &fake{}
	_, ended := serve(t, path, f)
	serve(t, path, &fake{})
	if err := ending(t, ended); !errors.Is(err, tunnel.ErrSucceeded) || !f.isStopped() {
		t.Errorf("end: %v, stopped %v", err, f.isStopped())
	}
	dial(t, path)
}

// Another user is not answered, even if the file's mode were wrong.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: becomes another user")
	}
	path := socket(t)
	serve(t, path, &fake{})
	up := path
	for range 4 { // up to the test's own directory
		if err := os.Chmod(up, 0o777); err != nil {
			t.Fatal(err)
		}
		up = filepath.Dir(up)
	}
	if err := askRaw(path); err != nil {
		t.Errorf("root heard: %v", err)
	}
	heard := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of another user now
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			heard <- errno
			return
		}
		heard <- askRaw(path)
	}()
	if err := <-heard; !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("another user heard: %v", err)
	}
}

// askRaw says hello on the thread that it is called on.
func askRaw(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if err := tunnel.WriteFrame(f, tunnel.Request{Do: "hello"}); err != nil {
		return err
	}
	return tunnel.ReadFrame(f, &tunnel.Answer{})
}

func TestLongPath(t *testing.T) {
	path := "/tmp/" + strings.Repeat("x", 100)
	_, err := tunnel.Listen(t.Context(), tunnel.Serving{Socket: path, Forwarder: &fake{}, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "here it may have") {
		t.Error(err)
	}
}

// What is started and ends at once is not waited for.
func TestStartFails(t *testing.T) {
	for _, executable := range []string{"/bin/false", "/nonexistent"} {
		begin := time.Now()
		_, err := tunnel.Start(t.Context(), tunnel.Process{Executable: executable, Socket: socket(t)})
		if err == nil || time.Since(begin) > timeout {
			t.Errorf("%s: %v after %s", executable, err, time.Since(begin))
		}
	}
	mute := filepath.Join(t.TempDir(), "mute")
	if err := os.WriteFile(mute, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := tunnel.Start(ctx, tunnel.Process{Executable: mute, Socket: socket(t)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that never answers: %v", err)
	}
}

func TestOffloadForPeople(t *testing.T) {
	for want, o := range map[string]*tunnel.Offload{
		"":                              nil,
		"on":                            {On: []string{"csum"}},
		"off: in the network config":    {Plain: true},
		"on, but uso: not on; gso: why": {On: []string{"csum"}, Off: []string{"uso: not on", "gso: why"}},
	} {
		if got := o.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
