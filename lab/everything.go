package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Everything is the host as text that compares, whoever made what: its kernel,
// switches, processes, pinned programs and files.
func (h *Host) Everything(ctx context.Context) (string, error) {
	var b strings.Builder
	for _, line := range [][]string{
		{"ip", "-d", "link"},
		{"ip", "-d", "addr"},
		{"ip", "-d", "route", "show", "table", "all"},
		{"ip", "-d", "-6", "route", "show", "table", "all"},
		{"ip", "rule"},
		{"ip", "-6", "rule"},
		{"ip", "-d", "nexthop"},
		{"ip", "neigh", "show", "nud", "permanent"},
		{"ip", "-6", "neigh", "show", "nud", "permanent"},
		{"ip", "neigh", "show", "proxy"},
		{"bridge", "-d", "fdb"},
		{"tc", "qdisc"},
		{"nft", "--stateless", "list", "ruleset"},
		{"iptables-save"},
		{"ip6tables-save"},
		{"iptables-legacy-save"},
		{"ip6tables-legacy-save"},
		{"sysctl", "-a", "-r", `^net\.`},
	} {
		out, err := h.Run(ctx, line...)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "$ %s\n%s", strings.Join(line, " "), withoutMoving(withoutVolatile(out)))
	}
	files, err := h.Files()
	if err != nil {
		return "", err
	}
	inside, err := h.inside()
	fmt.Fprintf(&b, "$ files\n%s$ processes and pins\n%s", withoutLab(files), inside)
	return b.String(), err
}

// withoutMoving drops switches that count, or come with a module of the kernel.
func withoutMoving(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "net.netfilter.") || strings.HasPrefix(line, "net.nf_conntrack") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// withoutLab drops what the lab itself puts beside the daemons' files.
func withoutLab(files string) string {
	var b strings.Builder
	for line := range strings.Lines(files) {
		if strings.Contains(line, " /run/notify") || strings.Contains(line, " /run/flanneld") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// inside lists the processes in the host's network and the programs that are
// pinned for it.
func (h *Host) inside() (string, error) {
	var lines []string
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.PID()))
	if err != nil {
		return "", fmt.Errorf("namespace of %s: %w", h.Name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/net"))
		if err != nil || ns != own {
			continue // gone, or elsewhere
		}
		comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if err == nil {
			lines = append(lines, "process "+strings.TrimSpace(string(comm)))
		}
	}
	number := strings.Trim(own, "net:[]")
	pins, err := os.ReadDir(h.Path("/sys/fs/bpf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, p := range pins {
		if strings.HasSuffix(p.Name(), "-"+number) {
			lines = append(lines, "pins "+p.Name())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}
