package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pause makes the node that it was born into (own network, mount and UTS
// namespace) private, says so on standard output, and holds it until standard
// input closes: also when the lab dies without saying goodbye.
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
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
