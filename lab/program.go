package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// Program is a process inside a node that the lab talks to, a line each way.
type Program struct {
	proc *process
	in   io.WriteCloser
	out  *bufio.Reader
	diag *strings.Builder
}

// Launch starts a program inside the node. Stop it, or it lives as long as the
// node.
func (n *Node) Launch(ctx context.Context, args ...string) (*Program, error) {
	cmd := n.Command(context.WithoutCancel(ctx), args...)
	p := &Program{diag: &strings.Builder{}}
	cmd.Stderr = p.diag
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("%s on %s: %w", args[0], n.Name, err)
	}
	said, pipe := io.Pipe()
	cmd.Stdout = pipe
	p.in, p.out = in, bufio.NewReader(said)
	if p.proc, err = n.spawn.background(cmd); err != nil {
		return nil, err
	}
	go func() { <-p.proc.done; _ = pipe.Close() }()
	return p, nil
}

// Tell writes a line to the program.
func (p *Program) Tell(line string) error {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return p.wrong(err)
	}
	return nil
}

// Hear waits for the next line that the program writes.
func (p *Program) Hear() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", p.wrong(err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// wrong adds what the program said of itself, if it has ended.
func (p *Program) wrong(err error) error {
	if p.proc.running() {
		return fmt.Errorf("%s: %w", p.proc.cmd.Path, err)
	}
	return errors.Join(fmt.Errorf("%v: %w", p.proc.cmd.Args, err), p.proc.err, errors.New(strings.TrimSpace(p.diag.String())))
}

// Finish closes the program's standard input, returns what it still writes, and
// waits for it to end by itself.
func (p *Program) Finish(ctx context.Context) (string, error) {
	closed := p.in.Close()
	rest := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(p.out) // ends with the process
		rest <- string(text)
	}()
	select {
	case <-p.proc.done:
	case <-ctx.Done():
		return "", errors.Join(p.wrong(ctx.Err()), p.proc.end(context.WithoutCancel(ctx), syscall.SIGKILL))
	}
	if p.proc.err != nil {
		return <-rest, p.wrong(p.proc.err)
	}
	return <-rest, closed
}

// Inside runs f on a thread inside the node's network namespace. Sockets that
// it opens belong to the node for good; the thread does not outlive f.
func (n *Node) Inside(f func() error) error { return n.within(f) }

// IP runs lines through one `ip -batch` inside the node.
func (n *Node) IP(ctx context.Context, lines ...string) error { return n.ip(ctx, lines...) }

// Feed runs a command inside the node with input.
func (n *Node) Feed(ctx context.Context, input string, args ...string) error {
	return n.feed(ctx, input, args...)
}

// Sysctl sets switches below /proc/sys/net, given as path=value.
func (n *Node) Sysctl(settings ...string) error { return n.sysctl(settings...) }

// DaemonPID is the process of flanneld, or 0.
func (h *Host) DaemonPID() int {
	if h.daemon == nil || !h.daemon.running() {
		return 0
	}
	return h.daemon.cmd.Process.Pid
}

// Kill ends the program, whatever it does.
func (p *Program) Kill(ctx context.Context) error {
	_ = p.proc.end(ctx, syscall.SIGKILL) // that it was killed is no news
	return ctx.Err()
}

// FastPath is what flanneld says of carrying the udp backend's packets in the
// kernel.
type FastPath struct {
	State          string // "on", or why not; "" if it knows no such thing
	Sent, Received uint64 // packets carried without the forwarder
}

// FastPath asks flanneld.
func (h *Host) FastPath(ctx context.Context) (FastPath, error) {
	out, err := h.Flannelctl(ctx, "status", "-o", "json")
	if err != nil {
		return FastPath{}, err
	}
	var status struct {
		Tunnel struct {
			FastPath                                 string
			KernelSentPackets, KernelReceivedPackets uint64
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return FastPath{}, fmt.Errorf("status of %s: %w", h.Name, err)
	}
	t := status.Tunnel
	return FastPath{State: t.FastPath, Sent: t.KernelSentPackets, Received: t.KernelReceivedPackets}, nil
}
