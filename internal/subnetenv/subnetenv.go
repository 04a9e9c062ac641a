// Package subnetenv is the format of subnet.env: the file that tells a
// container runtime which addresses this host may give out. Its text is a
// contract with flannel's CNI plugin and with everybody's scripts.
//
// It owns names, order and syntax of the variables, and what Docker makes of
// them. It never touches a file: the file driver writes, the callers read.
// Called by the engine (Format), the daemon (Parse, to learn its previous
// subnet) and flannelctl (DockerOpts).
package subnetenv

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Env is the content of subnet.env. It is comparable.
type Env struct {
	// Networks are the cluster networks. A zero slot: the family is off.
	Networks addr.ByFamily[netip.Prefix]
	// Subnets are this host's, each with the address of its gateway: the
	// first after the base, for example 10.5.72.1/24.
	Subnets addr.ByFamily[netip.Prefix]
	MTU     int  // bytes that a container may send in one packet; 0: unknown
	IPMasq  bool // the daemon masquerades, so the runtime must not
}

const (
	mtuName    = "FLANNEL_MTU"
	ipMasqName = "FLANNEL_IPMASQ"
)

func networkName(f addr.Family) string { return "FLANNEL_" + infix(f) + "NETWORK" }
func subnetName(f addr.Family) string  { return "FLANNEL_" + infix(f) + "SUBNET" }

func infix(f addr.Family) string {
	if f == addr.IPv4 {
		return ""
	}
	return "IPV6_"
}

// Format writes the file as flannel does, byte for byte: fixed order, no
// quotes, no lines for a family that is off.
func Format(e Env) string {
	var b strings.Builder
	for _, f := range addr.Families() {
		if n := e.Networks.At(f); n.IsValid() {
			fmt.Fprintf(&b, "%s=%s\n%s=%s\n", networkName(f), n, subnetName(f), e.Subnets.At(f))
		}
	}
	fmt.Fprintf(&b, "%s=%d\n%s=%t\n", mtuName, e.MTU, ipMasqName, e.IPMasq)
	return b.String()
}

// Parse reads a file that flannel, we or a person wrote. Env holds all that
// could be read, even with an error: one bad line harms no other. Networks
// and subnets may be comma lists; more than one valid CIDR counts as none, as
// in flannel, because nobody can say which was meant.
func Parse(b []byte) (Env, error) {
	var e Env
	vars, errs := variables(b)
	for _, v := range vars {
		if err := e.set(v); err != nil {
			errs = append(errs, fmt.Errorf("subnet.env line %d: %s %q: %w", v.line, v.name, v.value, err))
		}
	}
	return e, errors.Join(errs...)
}

// set stores one variable; those of others are passed over.
func (e *Env) set(v variable) (err error) {
	switch v.name {
	case mtuName:
		e.MTU, err = parseMTU(v.value)
		return err
	case ipMasqName:
		e.IPMasq, err = parseBool(v.value)
		return err
	}
	for _, f := range addr.Families() {
		switch v.name {
		case networkName(f):
			p, err := onlyPrefix(f, v.value)
			e.Networks.Put(f, p)
			return err
		case subnetName(f):
			p, err := onlyPrefix(f, v.value)
			e.Subnets.Put(f, p)
			return err
		}
	}
	return nil
}

// onlyPrefix returns the valid prefix of a comma list if it is the only one.
func onlyPrefix(f addr.Family, list string) (netip.Prefix, error) {
	var found []netip.Prefix
	for text := range strings.SplitSeq(list, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err == nil && p.Addr().Is4() == (f == addr.IPv4) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return netip.Prefix{}, fmt.Errorf("must be one %s CIDR, has %d", f, len(found))
	}
	return found[0], nil
}

func parseMTU(s string) (int, error) {
	const most = 1<<16 - 1 // the largest IP packet
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("must be 0..%d", most)
	}
	return n, nil
}

func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, errors.New("must be true or false")
	}
	return s == "true", nil
}
