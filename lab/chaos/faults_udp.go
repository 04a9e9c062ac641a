package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// What only the udp backend has: a process, and programs in the kernel.
func udpFaults() []fault {
	fast := func(v variant) bool { return v.carrier == udp && v.has(addr.IPv4) }
	return []fault{
		{
			name: "forwarder killed", applies: func(v variant) bool { return v.carrier == udp }, mute: true,
			inject: func(ctx context.Context, t *trial) error { return t.host.KillForwarder(ctx) }, gone: forwards,
		},
		{name: "fast path's pins removed", applies: fast, inject: unpin(""), gone: pinned, slow: true},
		{name: "fast path's programs detached", applies: fast, inject: unpin("link-"), gone: pinned, slow: true},
		{name: "fast path's hidden device deleted", applies: fast, gone: pinned, inject: func(ctx context.Context, t *trial) error {
			if err := t.notePins(); err != nil {
				return err
			}
			t.now()
			return t.host.IP(ctx, "link del flannel0-in")
		}},
	}
}

// forwards demands the host as it was, and a packet each way (run waits for it).
func forwards(ctx context.Context, t *trial) error {
	return t.asBefore(ctx, func(string) bool { return false })
}

func (t *trial) pins() ([]string, error) {
	root := t.host.Path("/sys/fs/bpf")
	found, err := filepath.Glob(root + "/flannel-ng*/*")
	if err != nil {
		return nil, fmt.Errorf("pins of %s: %w", t.host.Name, err)
	}
	for i := range found {
		found[i] = strings.TrimPrefix(found[i], root)
	}
	slices.Sort(found)
	return found, nil
}

func (t *trial) notePins() error {
	pins, err := t.pins()
	if err == nil && len(pins) == 0 {
		err = fmt.Errorf("%s has no pins: is the fast path off?", t.host.Name)
	}
	t.keep["pins"] = strings.Join(pins, " ")
	return err
}

// unpin removes the pins whose names begin so; an attachment that nobody holds
// any more ends.
func unpin(prefix string) func(context.Context, *trial) error {
	return func(_ context.Context, t *trial) error {
		if err := t.notePins(); err != nil {
			return err
		}
		for pin := range strings.FieldsSeq(t.keep["pins"]) {
			if !strings.HasPrefix(filepath.Base(pin), prefix) {
				continue
			}
			if err := os.Remove(t.host.Path("/sys/fs/bpf" + pin)); err != nil {
				return fmt.Errorf("unpin: %w", err)
			}
		}
		return nil
	}
}

func pinned(ctx context.Context, t *trial) error {
	pins, err := t.pins()
	if err != nil {
		return err
	}
	if now := strings.Join(pins, " "); now != t.keep["pins"] {
		return fmt.Errorf("pins of %s are %s, not %s", t.host.Name, now, t.keep["pins"])
	}
	return t.asBefore(ctx, func(string) bool { return false })
}
