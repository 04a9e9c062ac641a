package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Reboot takes from a host what a reboot takes: processes, containers, devices,
// routes, rules, and what lies below /run. The uplink comes back at once, as it
// was; the caller starts flanneld.
func (h *Host) Reboot(ctx context.Context) error {
	if h.daemon != nil && h.daemon.running() {
		if err := h.KillForwarder(ctx); err != nil && !errors.Is(err, errNoForwarder) {
			return err
		}
		if err := h.Kill(ctx); err != nil {
			return err
		}
	}
	if err := h.fabric.detach(ctx, h); err != nil {
		return err
	}
	for _, c := range []string{
		"ip -o link | sed -n 's/^[0-9]*: \\(flannel[^:@]*\\|cni0\\)[:@].*/\\1/p' | xargs -rn1 ip link del",
		"ip nexthop flush",
		"ip route flush proto 70; ip -6 route flush proto 70",
		"nft flush ruleset",
		"rm -rf /sys/fs/bpf/flannel*",
	} {
		if _, err := h.Run(ctx, "sh", "-c", c); err != nil {
			return fmt.Errorf("reboot: %w", err)
		}
	}
	h.ports = 0
	return os.RemoveAll(filepath.Dir(h.Path(h.SubnetFile())))
}

// detach ends the containers of a host.
func (f *Fabric) detach(ctx context.Context, h *Host) error {
	var errs []error
	f.containers = slices.DeleteFunc(f.containers, func(c *Container) bool {
		if c.Host != h {
			return false
		}
		errs = append(errs, c.close(ctx))
		return true
	})
	return errors.Join(errs...)
}
