package lab

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is the host's network state as text that compares: no counters, no
// entries that come and go by themselves.
func (h *Host) Kernel(ctx context.Context) string {
	var b strings.Builder
	for _, line := range [][]string{
		{"ip", "-d", "link", "show", "type", "vxlan"},
		{"ip", "-d", "link", "show", "type", "tun"},
		{"ip", "addr"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
		{"ip", "rule"},
		{"ip", "-6", "rule"},
		{"ip", "nexthop"},
		{"ip", "neigh", "show", "nud", "permanent"},
		{"ip", "-6", "neigh", "show", "nud", "permanent"},
		{"bridge", "fdb"},
		{"nft", "--stateless", "list", "ruleset"},
		{"iptables-save"},
		{"ip6tables-save"},
		{"sysctl", "-a", "-r", `^net\.ipv[46]\.(ip_forward|conf\..*\.(forwarding|accept_ra|rp_filter))$`},
	} {
		out, err := h.Run(ctx, line...)
		if line[0] == "bridge" { // the kernel lists a hash table
			lines := slices.Sorted(strings.Lines(out))
			out = strings.Join(lines, "")
		}
		fmt.Fprintf(&b, "$ %s\n%s", strings.Join(line, " "), withoutVolatile(out))
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// withoutVolatile drops comments with times, packet counters and what bridges
// learned.
func withoutVolatile(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		learned := strings.Contains(line, " dev ") && strings.Contains(line, " master ") &&
			!strings.Contains(line, "permanent") // by a bridge, from traffic
		if strings.HasPrefix(line, "#") || learned {
			continue
		}
		if i := strings.LastIndex(line, " ["); strings.HasPrefix(line, ":") && i > 0 {
			line = line[:i] + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// MACs are the addresses of the host's tunnel devices that peers know.
func (h *Host) MACs(ctx context.Context) (string, error) {
	out, err := h.Run(ctx, "ip", "-o", "-br", "link", "show", "type", "vxlan")
	known := slices.DeleteFunc(strings.SplitAfter(out, "\n"), func(line string) bool {
		return strings.Contains(line, "-in ") // only programs of the kernel send to it
	})
	return strings.Join(known, ""), err
}

// Files lists the host's private directories with a hash of each file. The
// lab's own log is left out, and of the last-known-good picture the content: a
// running flanneld writes it anew as time passes.
func (h *Host) Files() (string, error) {
	var lines []string
	for _, dir := range []string{"/run", "/var/lib"} {
		root := h.Path(dir)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == h.Path(h.LogFile()) {
				return err
			}
			line := d.Type().String() + " " + dir + strings.TrimPrefix(path, root)
			if d.Type().IsRegular() && d.Name() != "last-known-good.json" {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %x", sha256.Sum256(text))
			}
			lines = append(lines, line)
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("files of %s: %w", h.Name, err)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// Picture is all that a daemon on h could change: kernel, files and etcd.
func (f *Fabric) Picture(ctx context.Context, h *Host) (string, error) {
	files, err := h.Files()
	if err != nil {
		return "", err
	}
	pairs, err := f.Etcd.List(ctx, "")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s$ files\n%s$ etcd\n", h.Kernel(ctx), files)
	for _, p := range pairs {
		fmt.Fprintf(&b, "%s\n%s\n", p.Key, p.Value)
	}
	return b.String(), nil
}

// Dump writes everything that helps to find out what went wrong.
func (f *Fabric) Dump(ctx context.Context, w io.Writer) {
	if f.Etcd != nil && f.Etcd.Client != nil {
		pairs, err := f.Etcd.List(ctx, "")
		_, _ = fmt.Fprintf(w, "=== etcd (%v)\n", err)
		for _, p := range pairs {
			_, _ = fmt.Fprintf(w, "%s\n%s\n", p.Key, p.Value)
		}
	}
	for _, h := range f.daemons() {
		status, err := h.Flannelctl(ctx, "status")
		env, _ := os.ReadFile(h.Path(h.SubnetFile()))
		_, _ = fmt.Fprintf(w, "=== %s status (%v)\n%s--- subnet.env\n%s--- log\n%s--- kernel\n%s",
			h.Name, err, status, env, h.Log(), h.Kernel(ctx))
	}
	for _, c := range f.containers {
		out, err := c.Run(ctx, "ip", "addr")
		_, _ = fmt.Fprintf(w, "=== %s on %s (%v)\n%s", c.Name, c.Host.Name, err, out)
	}
}
