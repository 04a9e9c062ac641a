package tunnel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Subcommand is the argument that makes flanneld a forwarder. It takes
// --socket and --build.
const Subcommand = "forward"

// self is the running program, even if its file has been replaced since: what
// it starts is of the same build.
const self = "/proc/self/exe"

// pollEvery is how often Start looks for a forwarder that it has started.
const pollEvery = 10 * time.Millisecond

// Process says how to start a forwarder.
type Process struct {
	Executable string // path of a flanneld; empty: this program
	Socket     string // path
	Build      string // Hello.Build, by which the next flanneld knows it
	Flags      []string
}

// Start starts a forwarder and returns when it works. Whoever was on the
// socket before has handed over to it by then and has ended, or was killed if
// it could not. Nothing of this process goes along but stderr, and its end
// does not touch the forwarder.
//
// After an error there is no new forwarder, and one that was there goes on if
// it could speak.
func Start(ctx context.Context, p Process) (*Client, error) {
	child, err := p.spawn()
	if err != nil {
		return nil, fmt.Errorf("start forwarder: %w", err)
	}
	ended := make(chan error, 1)
	go func() { // until it ends: nobody else would take its remains
		state, err := child.Wait()
		if err == nil {
			err = errors.New(state.String())
		}
		ended <- err
	}()
	c, err := meet(ctx, p.Socket, child.Pid, ended)
	if err != nil {
		_ = child.Kill() // it has ended, or must
		return nil, fmt.Errorf("start forwarder %d: %w", child.Pid, err)
	}
	return c, nil
}

// Replace starts a forwarder in the place of old, which is left alone and open
// if there is an error. No packet is lost: some process always reads, and both
// read the same descriptors for a moment.
func Replace(ctx context.Context, old *Client, p Process) (*Client, error) {
	c, err := Start(ctx, p)
	if err != nil {
		return nil, err
	}
	_ = old.Close() // the other side has ended
	return c, nil
}

// spawn starts the process in a session of its own: no terminal and no group
// signal reaches it.
func (p Process) spawn() (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	executable := p.Executable
	if executable == "" {
		executable = self
	}
	args := append([]string{"flanneld", Subcommand, "--socket", p.Socket, "--build", p.Build}, p.Flags...)
	return os.StartProcess(executable, args, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{}, // not the supervisor's sockets and watchdog
		Files: []*os.File{null, null, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// meet waits until process pid answers on socket.
func meet(ctx context.Context, socket string, pid int, ended <-chan error) (*Client, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := ErrNoForwarder
	for {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("it has ended: %w", err)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; last: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
		c, err := Dial(ctx, socket)
		if err != nil {
			last = err
			continue
		}
		if c.Hello().PID == pid {
			return c, nil
		}
		last = fmt.Errorf("forwarder %d is still there", c.Hello().PID)
		_ = c.Close() // it goes on, or ends soon
	}
}
