package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/lab"
)

// eye sees a host's network state.
type eye struct {
	host     *lab.Host
	route    *wire
	filter   *wire
	known    uint32 // generation of rules
	rules    []string
	switches []string
}

func newEye(h *lab.Host) (*eye, error) {
	e := &eye{host: h}
	err := h.Inside(func() (err error) {
		if e.route, err = dial(unix.NETLINK_ROUTE); err == nil {
			e.filter, err = dial(unix.NETLINK_NETFILTER)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", h.Name, err)
	}
	return e, nil
}

func (e *eye) close() error { return errors.Join(e.route.close(), e.filter.close()) }

// look reads everything.
func (e *eye) look(ctx context.Context) (picture, error) {
	lines, err := readKernel(e.route)
	for attempt := 0; errors.Is(err, errInterrupted) && attempt < 20 && ctx.Err() == nil; attempt++ {
		lines, err = readKernel(e.route)
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", e.host.Name, err)
	}
	if err := e.firewall(ctx); err != nil {
		return nil, fmt.Errorf("look at %s: %w", e.host.Name, err)
	}
	if err := e.host.Inside(e.sysctls); err != nil {
		return nil, fmt.Errorf("look at %s: %w", e.host.Name, err)
	}
	env, err := os.ReadFile(e.host.Path(e.host.SubnetFile()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look at %s: %w", e.host.Name, err)
	}
	for line := range strings.Lines(string(env)) {
		lines = append(lines, "subnet.env "+strings.TrimSpace(line))
	}
	lines = slices.Concat(lines, e.rules, e.switches)
	slices.Sort(lines)
	return lines, nil
}

// firewall lists the rules if they changed since they were last listed.
func (e *eye) firewall(ctx context.Context) error {
	generation, err := e.filter.generation()
	if err != nil || generation == e.known {
		return err
	}
	text, err := e.host.Run(ctx, "nft", "--stateless", "list", "ruleset")
	if err != nil {
		return err
	}
	e.rules, e.known = ruleLines(text), generation
	return nil
}

// ruleLines makes a line of every rule; of a chain or table of flannel's, one of
// the whole chain, whose order counts.
func ruleLines(text string) []string {
	var lines, path, inner []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasSuffix(line, "{"):
			path = append(path, strings.TrimSuffix(line, " {"))
		case line == "}" && len(path) > 0:
			if at := strings.Join(path, " "); flannels(at) && len(path) > 1 {
				lines = append(lines, "nft "+at+": "+strings.Join(inner, "; "))
			}
			inner, path = nil, path[:len(path)-1]
		case flannels(strings.Join(path, " ")):
			inner = append(inner, line)
		default:
			lines = append(lines, "nft "+strings.Join(path, " ")+": "+line)
		}
	}
	return lines
}

func flannels(text string) bool { return strings.Contains(strings.ToLower(text), "flannel") }

// sysctls reads the switches on the calling thread, which is inside the host.
func (e *eye) sysctls() error {
	e.switches = e.switches[:0]
	for _, pattern := range []string{
		"ipv4/conf/*/forwarding", "ipv4/conf/*/rp_filter", "ipv6/conf/*/forwarding", "ipv6/conf/*/accept_ra", "ipv6/conf/*/disable_ipv6",
	} {
		files, err := filepath.Glob("/proc/sys/net/" + pattern)
		if err != nil {
			return fmt.Errorf("sysctls: %w", err)
		}
		for _, file := range files {
			value, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue // its link is gone
			}
			if err != nil {
				return fmt.Errorf("sysctls: %w", err)
			}
			e.switches = append(e.switches, fmt.Sprintf("sysctl %s=%s", strings.TrimPrefix(file, "/proc/sys/net/"), strings.TrimSpace(string(value))))
		}
	}
	return nil
}
