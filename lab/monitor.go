package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
)

// Monitor is a command on a node that tells of changes as long as it runs.
type Monitor struct {
	proc *process

	mu   sync.Mutex
	said strings.Builder
}

// Write takes what the command prints.
func (m *Monitor) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.Write(p)
}

// Monitor starts such a command.
func (n *Node) Monitor(ctx context.Context, args ...string) (*Monitor, error) {
	m := &Monitor{}
	cmd := n.Command(context.WithoutCancel(ctx), args...)
	cmd.Stdout = m
	var err error
	m.proc, err = n.spawn.background(cmd)
	return m, err
}

// Stop ends it and returns what it said.
func (m *Monitor) Stop(ctx context.Context) string {
	_ = m.proc.end(ctx, syscall.SIGKILL) // it was to run until then
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String()
}

// Devices are flannel's devices of a host, with their interface indexes.
func (h *Host) Devices(ctx context.Context) (map[string]int, error) {
	out, err := h.Run(ctx, "ip", "-json", "link")
	if err != nil {
		return nil, err
	}
	var links []struct {
		Name  string `json:"ifname"`
		Index int    `json:"ifindex"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return nil, fmt.Errorf("links of %s: %w", h.Name, err)
	}
	found := map[string]int{}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "flannel") {
			found[l.Name] = l.Index
		}
	}
	return found, nil
}
