package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Node is a machine of the lab: its own network, mount and host name
// namespaces, held by a process that does nothing. /run and /var/lib are
// private tmpfs, so that default paths work on every host at once.
type Node struct {
	Name string

	pause *process
	stdin io.Closer
	netns *os.File
	spawn *spawner
	ears  []net.Listener // responders, closed with the node
}

// newNode starts the holding process and waits until its namespaces stand. It
// lives until close, not until ctx ends: were it killed, what was started inside
// and is no child of the lab (a forwarder) would stay.
func newNode(ctx context.Context, s *spawner, labBinary, name string) (*Node, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), labBinary, "pause", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		// When the lab dies its standard input closes, and it ends by itself,
		// after what runs inside. A kill would leave that behind.
		Pdeathsig: syscall.SIGTERM,
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("pause %s: %w", name, err)
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("pause %s: %w", name, err)
	}
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("pause %s: %w", name, err), cmd.Wait())
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("namespace of %s: %w", name, err)
	}
	n := &Node{Name: name, pause: p, stdin: stdin, netns: netns, spawn: s}
	return n, n.sysctl(quick()...)
}

// quick switches off what only costs time in a lab, before any link exists:
// waiting for duplicate addresses. Reverse path filters would hide whether
// rules or routes decide.
func quick() []string {
	return []string{
		"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
		"ipv6/conf/all/accept_ra=0", "ipv6/conf/default/accept_ra=0",
		"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
	}
}

// PID is the holding process; `nsenter -t PID -n -m -u` enters the node.
func (n *Node) PID() int { return n.pause.cmd.Process.Pid }

// Path is where the file at path, as the node sees it, lies for us.
func (n *Node) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.PID()), "root", path)
}

// close ends the node; the kernel removes its links with its namespace.
func (n *Node) close(ctx context.Context) error {
	for _, l := range n.ears {
		_ = l.Close()
	}
	_ = n.stdin.Close() // the pause process ends on its own
	select {
	case <-n.pause.done:
	case <-ctx.Done():
		return fmt.Errorf("close %s: %w", n.Name, ctx.Err())
	}
	return n.netns.Close()
}

// Command builds a command that runs inside the node.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{"--net", "--mount", "--uts", "--wd=/", "-t", strconv.Itoa(n.PID()), "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a command inside the node to its end and returns its output.
func (n *Node) Run(ctx context.Context, args ...string) (string, error) {
	out, err := n.spawn.output(n.Command(ctx, args...))
	if err != nil {
		return out, fmt.Errorf("on %s: %w", n.Name, err)
	}
	return out, nil
}

// feed runs a command inside the node with input.
func (n *Node) feed(ctx context.Context, input string, args ...string) error {
	cmd := n.Command(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	if _, err := n.spawn.output(cmd); err != nil {
		return fmt.Errorf("on %s: %w\ninput:\n%s", n.Name, err, input)
	}
	return nil
}

// ip runs lines through one `ip -batch`.
func (n *Node) ip(ctx context.Context, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	return n.feed(ctx, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// sysctl sets switches below /proc/sys/net, given as path=value.
func (n *Node) sysctl(settings ...string) error {
	return n.within(func() error {
		for _, s := range settings {
			path, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return fmt.Errorf("sysctl %s: %w", s, err)
			}
		}
		return nil
	})
}

// within runs f on a thread inside the node's network namespace. The thread
// ends with it, so it never serves other goroutines from the wrong network.
func (n *Node) within(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(n.netns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter %s: %w", n.Name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// Origin is where a connection starts; its zero value lets the kernel choose.
type Origin struct {
	Source netip.Addr
	Mark   int // SO_MARK
}

// Dial connects from inside the node. A socket belongs to the network it was
// made in, whoever uses it later.
func (n *Node) Dial(ctx context.Context, o Origin, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if o.Source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: o.Source.AsSlice()}
	}
	if o.Mark != 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error { return setMark(c, o.Mark) }
	}
	var conn net.Conn
	err := n.within(func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", n.Name, err)
	}
	return conn, nil
}

func setMark(c syscall.RawConn, mark int) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
	})
	return errors.Join(err, set)
}

// listen opens a listener inside the node and closes it with the node.
func (n *Node) listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.within(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", n.Name, err)
	}
	n.ears = append(n.ears, l)
	return l, nil
}
