package nft

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// toolPatience bounds a run of iptables-save: one that hangs would stop every
// pass.
const toolPatience = 10 * time.Second

// Warnings names the chains that drop forwarded packets by default and that
// our accepts cannot reach: chains of nftables tables other than the host's
// "filter FORWARD", and the FORWARD chain of legacy iptables, whose rules
// nftables cannot see. Empty unless want accepts forwarding in this mode.
func (d *Driver) Warnings(ctx context.Context, want *state.Set) ([]string, error) {
	wanted := filter.Wanted(want, state.ModeNFTables)
	var out []string
	for _, f := range addr.Families() {
		w := wanted.At(f)
		if len(w.Forward) == 0 {
			continue
		}
		dropping, err := d.names.dropping(f)
		if err != nil {
			return nil, err
		}
		legacy, err := legacyDrop(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, c := range slices.Concat(dropping, legacy) {
			out = append(out, fmt.Sprintf("%s drops forwarded packets by default, which no rule of ours can undo: accept %s there",
				c, w.Forward[0].Src.Prefix))
		}
	}
	return out, nil
}

// dropping lists base chains in forwarding with policy drop, but for the one
// that our accepts stand in.
func (n names) dropping(f addr.Family) ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	var out []string
	for fam, word := range map[nftables.TableFamily]string{tableFamily(f): tableWord(f), nftables.TableFamilyINet: "inet"} {
		chains, err := conn.ListChainsOfTableFamily(fam)
		if err != nil {
			return nil, fmt.Errorf("nftables chains: %w", err)
		}
		for _, c := range chains {
			reached := c.Name == hostForward && c.Table.Name == hostTable && fam != nftables.TableFamilyINet
			if !reached && dropsForwarded(c) {
				out = append(out, fmt.Sprintf("nftables chain %s %s %s", word, c.Table.Name, c.Name))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func dropsForwarded(c *nftables.Chain) bool {
	return c.Type == nftables.ChainTypeFilter && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

func tableWord(f addr.Family) string {
	if f == addr.IPv4 {
		return "ip"
	}
	return "ip6"
}

// legacyDrop looks at legacy iptables, which is asked only if the kernel says
// that its filter table exists: asking must not create it.
func legacyDrop(ctx context.Context, f addr.Family) ([]string, error) {
	save, proc := "ip6tables-legacy-save", "/proc/thread-self/net/ip6_tables_names"
	if f == addr.IPv4 {
		save, proc = "iptables-legacy-save", "/proc/thread-self/net/ip_tables_names"
	}
	tables, err := os.ReadFile(proc)
	if err != nil || !slices.Contains(strings.Fields(string(tables)), hostTable) {
		// No such file: the kernel has no legacy iptables.
		return nil, nil
	}
	if _, err := exec.LookPath(save); err != nil {
		return nil, nil // without the tool nobody can tell
	}
	ctx, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, save, "-t", hostTable)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", save, err)
	}
	if !strings.Contains(string(out), "\n:FORWARD DROP ") {
		return nil, nil
	}
	return []string{fmt.Sprintf("legacy iptables chain FORWARD (%s)", f)}, nil
}
