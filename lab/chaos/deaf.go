package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errHears is a process without a subscription: there is nothing to silence.
var errHears = errors.New("no netlink subscription found")

// deafen keeps all notifications of the kernel from a process: its sockets that
// are members of a netlink group get a filter that lets nothing pass. It is
// done through duplicates of the sockets, without the process's help or
// knowledge, and without the overrun by which it could tell.
func deafen(pid int) error {
	return eachSubscription(pid, func(fd int) error {
		refuse := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(refuse)), Filter: &refuse[0]})
	})
}

// hear takes the filters away.
func hear(pid int) error {
	return eachSubscription(pid, func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil // has none
		}
		return err
	})
}

func eachSubscription(pid int, do func(fd int) error) error {
	members, err := memberships(pid)
	if err != nil {
		return err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(process) }()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return fmt.Errorf("files of process %d: %w", pid, err)
	}
	found := 0
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil || !members[target] {
			continue // another file, or just closed
		}
		number, err := strconv.Atoi(filepath.Base(file))
		if err != nil {
			return fmt.Errorf("files of process %d: %w", pid, err)
		}
		if err := through(process, number, do); err != nil {
			return fmt.Errorf("subscription of process %d: %w", pid, err)
		}
		found++
	}
	if found == 0 {
		return fmt.Errorf("process %d: %w", pid, errHears)
	}
	return nil
}

// through calls do with a duplicate of a file of the process.
func through(process, number int, do func(fd int) error) error {
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return fmt.Errorf("duplicate file %d: %w", number, err)
	}
	return errors.Join(do(fd), unix.Close(fd))
}

// memberships are the netlink sockets in the process's namespace that are
// members of groups, as the links in /proc/PID/fd name them.
func memberships(pid int) (map[string]bool, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/net/netlink", pid))
	if err != nil {
		return nil, fmt.Errorf("netlink sockets: %w", err)
	}
	defer func() { _ = file.Close() }()
	out := map[string]bool{}
	const groups, inode = 3, 9
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > inode && strings.Trim(f[groups], "0") != "" && f[groups] != "Groups" {
			out["socket:["+f[inode]+"]"] = true
		}
	}
	return out, lines.Err()
}
