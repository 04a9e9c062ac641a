package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
)

// Capture is a tcpdump on a node's eth0.
type Capture struct {
	proc *process

	mu    sync.Mutex
	lines strings.Builder
}

// Write takes what tcpdump prints.
func (c *Capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines.Write(p)
}

// Packets is a line for each packet so far. tcpdump may lag behind the wire.
func (c *Capture) Packets() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines.String()
}

// StartCapture shows packets on eth0 that match a tcpdump filter. It returns
// when tcpdump listens.
func (n *Node) StartCapture(ctx context.Context, filter ...string) (*Capture, error) {
	args := append([]string{"tcpdump", "--immediate-mode", "-l", "-n", "-i", "eth0"}, filter...)
	c := &Capture{}
	cmd := n.Command(ctx, args...)
	cmd.Stdout = c
	diag, pipe := io.Pipe()
	cmd.Stderr = pipe
	var err error
	if c.proc, err = n.spawn.background(cmd); err != nil {
		return nil, err
	}
	go func() { <-c.proc.done; _ = pipe.Close() }()
	for said := bufio.NewScanner(diag); said.Scan(); {
		if strings.HasPrefix(said.Text(), "listening on") {
			go func() { _, _ = io.Copy(io.Discard, diag) }()
			return c, nil
		}
		err = errors.New(said.Text())
	}
	return nil, fmt.Errorf("capture on %s: %w", n.Name, err)
}

// Stop ends the capture.
func (c *Capture) Stop(ctx context.Context) error {
	if err := c.proc.end(ctx, syscall.SIGINT); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}
