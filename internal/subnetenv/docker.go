package subnetenv

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// DefaultDockerKey is the variable that holds all options together.
const DefaultDockerKey = "DOCKER_OPTS"

const dockerPrefix = "DOCKER_OPT_"

// DockerOptions say what DockerOpts shall write; the letters are those of
// mk-docker-opts.sh.
type DockerOptions struct {
	Individual bool   // -i: one variable per option
	Combined   bool   // -c: one variable with all options; neither means both
	Key        string // -k: the name of that variable; "" is DefaultDockerKey
	OmitIPMasq bool   // -m: no --ip-masq
	// Environ is the caller's environment, "NAME=value" each. Its DOCKER_OPT_*
	// variables are taken along, and what Key holds comes first.
	Environ []string
}

// DockerOpts turns subnet.env into the environment file of a Docker daemon,
// as mk-docker-opts.sh writes it. file is nil if there is no subnet.env: the
// result then has no options of ours. A variable that is there but makes no
// sense is an error.
func DockerOpts(file []byte, o DockerOptions) (string, error) {
	opts, held := inherited(o)
	vars, errs := variables(file)
	for _, v := range vars {
		if err := addOption(opts, v, o.OmitIPMasq); err != nil {
			errs = append(errs, fmt.Errorf("subnet.env line %d: %s %q: %w", v.line, v.name, v.value, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return o.write(opts, held), nil
}

// write lists the options, sorted by name, in the forms that are asked for.
func (o DockerOptions) write(opts map[string]string, held string) string {
	var individual, all strings.Builder
	all.WriteString(held)
	if held != "" && len(opts) > 0 {
		// A held value gets a space, and every option has one in front: what
		// reads these files has seen both spaces for years.
		all.WriteByte(' ')
	}
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		fmt.Fprintf(&individual, "%s=\"%s\"\n", name, opts[name])
		all.WriteString(" " + opts[name])
	}
	combined := fmt.Sprintf("%s=\"%s\"\n", o.key(), &all)
	switch {
	case o.Individual == o.Combined:
		return individual.String() + combined
	case o.Individual:
		return individual.String()
	default:
		return combined
	}
}

func (o DockerOptions) key() string {
	if o.Key == "" {
		return DefaultDockerKey
	}
	return o.Key
}

// inherited returns the options and the combined value that the environment
// brings. Only these exact names count: scanning everything that contains
// DOCKER_OPT also finds what was never meant (reference W49).
func inherited(o DockerOptions) (opts map[string]string, held string) {
	opts = make(map[string]string)
	for _, e := range o.Environ {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case name == o.key():
			held = value
		case strings.HasPrefix(name, dockerPrefix):
			opts[name] = value
		}
	}
	return opts, held
}

// addOption translates one variable. An empty one says nothing.
func addOption(opts map[string]string, v variable, omitIPMasq bool) error {
	if v.value == "" {
		return nil
	}
	switch v.name {
	case subnetName(addr.IPv4): // Docker's --bip has no IPv6 form
		p, err := netip.ParsePrefix(v.value)
		if err != nil || !p.Addr().Is4() {
			return errors.New("must be one IPv4 CIDR")
		}
		opts[dockerPrefix+"BIP"] = "--bip=" + p.String()
	case mtuName:
		mtu, err := parseMTU(v.value)
		if err != nil {
			return err
		}
		opts[dockerPrefix+"MTU"] = fmt.Sprintf("--mtu=%d", mtu)
	case ipMasqName:
		daemonMasquerades, err := parseBool(v.value)
		if err != nil {
			return err
		}
		if !omitIPMasq {
			opts[dockerPrefix+"IPMASQ"] = fmt.Sprintf("--ip-masq=%t", !daemonMasquerades)
		}
	}
	return nil
}
