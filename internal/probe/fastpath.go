package probe

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/flannel-ng/flannel-ng/internal/bpf"
	"github.com/flannel-ng/flannel-ng/internal/facts"
)

// FastPath finds out whether this kernel takes the programs that carry packets
// of the udp backend. It loads them and lets them go, which takes some ten
// milliseconds: once is enough. root is where the bpf file system is, or would
// be mounted.
func FastPath(root string) facts.Ability {
	err := errors.Join(attachable(), pinnable(root))
	if err == nil {
		err = bpf.Try()
	}
	if err != nil {
		return facts.Ability{Why: err.Error()}
	}
	return facts.Ability{OK: true}
}

// attachable asks what is attached to the loopback device: a kernel that cannot
// attach does not know the question.
func attachable() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("no right to load programs (CAP_BPF and CAP_NET_ADMIN): %w", err)
	default:
		return fmt.Errorf("the kernel cannot attach programs to devices by TCX (Linux 6.6): %w", err)
	}
}

func pinnable(root string) error {
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("no bpf file system: %w", err)
	}
	return nil
}
