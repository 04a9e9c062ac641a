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
	switch {
	case err == nil:
		return facts.Ability{OK: true}
	case errors.Is(err, os.ErrPermission):
		// What the library adds names maps and programs, and a limit that it is not.
		return facts.Ability{Why: "flanneld may not load programs: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or CAP_SYS_ADMIN), " +
			"and a kernel that is not locked down"}
	default:
		return facts.Ability{Why: err.Error()}
	}
}

// attachable asks what is attached to the loopback device: a kernel that cannot
// attach does not know the question.
func attachable() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("the kernel cannot attach programs to devices by TCX (Linux 6.6): %w", err)
	}
	return nil
}

func pinnable(root string) error {
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("no bpf file system: %w", err)
	}
	return nil
}
