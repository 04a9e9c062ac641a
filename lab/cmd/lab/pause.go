package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pause makes the node that it was born into (own network, mount and UTS
// namespace) private, says so on standard output, and holds it until standard
// input closes: also when the lab dies without saying goodbye. It takes along
// what was started inside.
func pause(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	if err := unix.Sethostname([]byte(args[0])); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib"} {
		if err := unix.Mount("lab", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	// Pins of one host must not show on another. A kernel without BPF has no
	// such directory, and nothing to pin.
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount a bpf file system: %w", err)
	}
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return fmt.Errorf("wait for the end: %w", err)
	}
	return sweep()
}

// sweep kills what still runs in the node's network namespace, which is nobody
// else's: a forwarder outlives the daemon that started it, and is no child of
// the lab.
func sweep() error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("own namespace: %w", err)
	}
	for {
		killed, err := killOthers(own)
		if err != nil || killed == 0 {
			return err
		}
	}
}

func killOthers(netns string) (killed int, err error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, link := range links {
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue // a thread of the lab may have been left inside
		}
		if in, err := os.Readlink(link); err != nil || in != netns {
			continue // gone, a zombie, or not ours
		}
		if err := unix.Kill(pid, unix.SIGKILL); err == nil {
			killed++
		}
	}
	return killed, nil
}
