package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter"
)

// readTries bounds how often a reading is repeated that others changed
// meanwhile.
const readTries = 10

// errChanging says that no two readings of the generation number agreed.
var errChanging = errors.New("ruleset keeps changing while it is read")

// ruleset is a consistent reading of all that matters to us in one family.
type ruleset struct {
	generation uint32
	table      *nftables.Table // ours; nil: not there
	chains     []chain         // of our table
	forward    *chain          // host's FORWARD, if packets go through it
	docker     *chain          // host's DOCKER-USER
}

type chain struct {
	*nftables.Chain
	rules []*nftables.Rule
}

// read repeats until nothing was committed in between: a dump that was
// interrupted could miss rules, and the library does not tell.
func (n names) read(ctx context.Context, f addr.Family) (ruleset, error) {
	conn, err := nftables.New()
	if err != nil {
		return ruleset{}, fmt.Errorf("nftables socket: %w", err)
	}
	last := errChanging
	for range readTries {
		if err := ctx.Err(); err != nil {
			return ruleset{}, fmt.Errorf("read nftables rules for %s: %w", f, err)
		}
		before, err := filter.Generation()
		if err != nil {
			return ruleset{}, err
		}
		rs, readErr := n.readOnce(conn, f)
		after, err := filter.Generation()
		if err != nil {
			return ruleset{}, err
		}
		if readErr == nil && before == after {
			rs.generation = before
			return rs, nil
		}
		if before == after {
			last = readErr
			break
		}
	}
	return ruleset{}, fmt.Errorf("read nftables rules for %s: %w", f, last)
}

func (n names) readOnce(conn *nftables.Conn, f addr.Family) (ruleset, error) {
	var rs ruleset
	own := n.table(f)
	tables, err := conn.ListTablesOfFamily(own.Family)
	if err != nil {
		return ruleset{}, fmt.Errorf("tables: %w", err)
	}
	if i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == own.Name }); i >= 0 {
		rs.table = tables[i]
	}
	chains, err := conn.ListChainsOfTableFamily(own.Family)
	if err != nil {
		return ruleset{}, fmt.Errorf("chains: %w", err)
	}
	for _, c := range chains {
		ours := c.Table.Name == own.Name
		host := c.Table.Name == hostTable && (c.Name == hostForward || c.Name == hostDocker)
		if !ours && !host {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return ruleset{}, fmt.Errorf("rules of chain %s %s: %w", c.Table.Name, c.Name, err)
		}
		rs.put(ours, chain{Chain: c, rules: rules})
	}
	return rs, nil
}

func (rs *ruleset) put(ours bool, c chain) {
	switch {
	case ours:
		rs.chains = append(rs.chains, c)
	case c.Name == hostDocker:
		rs.docker = &c
	case c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward:
		rs.forward = &c
	}
}
