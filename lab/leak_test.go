package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
)

// TestKilledLabLeavesNothing kills a running demo as `kill -9` would, and waits
// until no process and no namespace of it is left, not even forwarders, which
// are no children of the lab.
func TestKilledLabLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(lab.ErrNotRoot)
	}
	needTools(t)
	demo := exec.Command(binaries(t).Lab, "demo", "--keep", "--family=4", "--backend=udp")
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	spaces := readDoors(t, bufio.NewScanner(out))
	if len(spaces) != 6 {
		t.Errorf("the demo has %d doors, want 3 hosts and 3 containers", len(spaces))
	}
	if err := demo.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = demo.Wait() // killed
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err = lab.Eventually(ctx, func(context.Context) error {
		for space := range spaces {
			if users := usersOf(t, space); len(users) > 0 {
				return fmt.Errorf("%s is still used by processes %v", space, users)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// readDoors waits for the end of the demo's list of doors and returns the
// network namespaces behind them.
func readDoors(t *testing.T, lines *bufio.Scanner) map[string]bool {
	t.Helper()
	door := regexp.MustCompile(`nsenter -t (\d+) `)
	spaces := map[string]bool{}
	stuck := time.AfterFunc(limit, func() { panic("the demo shows no doors") })
	defer stuck.Stop()
	for lines.Scan() {
		if m := door.FindStringSubmatch(lines.Text()); m != nil {
			space, err := os.Readlink("/proc/" + m[1] + "/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			spaces[space] = true
		}
		if strings.HasPrefix(lines.Text(), "Try:") {
			return spaces
		}
	}
	t.Fatalf("the demo ended: %v", lines.Err())
	return nil
}

// usersOf are the processes inside a network namespace.
func usersOf(t *testing.T, space string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var users []string
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == space {
			users = append(users, link)
		}
	}
	return users
}
