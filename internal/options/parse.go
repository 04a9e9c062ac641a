package options

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

const defaultSubnetFile = state.DefaultSubnetFile

// Parse reads the arguments (without the program's name) and the environment
// ("NAME=value" each). A flag wins over its environment variable; an empty
// variable is ignored. The error joins all bad values, each with the name of
// the flag or variable; it is flag.ErrHelp if help was asked for.
//
// If Version is set, nothing else has been looked at.
func Parse(args, environ []string) (Options, error) {
	p := parser{env: variables(environ)}
	for _, g := range table() {
		p.rows = append(p.rows, g.rows...)
	}
	given, err := p.scan(args)
	if err != nil {
		return Options{}, err
	}
	if v := given["version"]; len(v) > 0 {
		if on, err := yesNo(v[len(v)-1]); err == nil && on {
			return Options{Version: true}, nil
		}
	}
	for _, r := range p.rows {
		p.apply(r, given[r.name])
	}
	p.warnNearMisses()
	p.finish()
	if err := errors.Join(p.errs...); err != nil {
		return Options{}, err
	}
	return p.out, nil
}

type parser struct {
	rows []row
	env  map[string]string
	out  Options
	errs []error
}

func variables(environ []string) map[string]string {
	out := make(map[string]string)
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, envPrefix) {
			out[name] = value
		}
	}
	return out
}

// scan splits the arguments as Go's flag package does, which flannel uses: one
// or two dashes, the value behind "=" or, unless the flag is boolean, in the
// next argument. It stops at the first argument that it does not understand,
// because everything behind that could mean anything.
func (p *parser) scan(args []string) (map[string][]string, error) {
	given := make(map[string][]string)
	var last row
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
		if name == arg || name == "" || name[0] == '-' || name[0] == '=' {
			return nil, unexpected(arg, last)
		}
		name, value, ok := strings.Cut(name, "=")
		r, known := p.row(name)
		switch {
		case known && ok:
		case known && r.kind == boolean:
			value = "true"
		case known && len(args) == 0:
			return nil, fmt.Errorf("--%s: needs a value", name)
		case known:
			value, args = args[0], args[1:]
		case name == "h" || name == "help":
			return nil, flag.ErrHelp
		default:
			return nil, p.unknown(name)
		}
		given[name] = append(given[name], value)
		last = r
	}
	return given, nil
}

// unexpected is the error of an argument that is no flag. after is the flag
// before it: a secret with a space in it may have come apart.
func unexpected(arg string, after row) error {
	switch {
	case after.secret:
		return fmt.Errorf("unexpected argument after --%s", after.name)
	case after.kind == boolean:
		return fmt.Errorf("unexpected argument %q: the value of a boolean flag needs \"=\", as in --%s=%s", arg, after.name, arg)
	default:
		return fmt.Errorf("unexpected argument %q", arg)
	}
}

func (p *parser) row(name string) (row, bool) {
	i := slices.IndexFunc(p.rows, func(r row) bool { return r.name == name })
	if i < 0 {
		return row{}, false
	}
	return p.rows[i], true
}

func (p *parser) unknown(name string) error {
	if near, ok := config.Nearest(name, p.names()); ok {
		return fmt.Errorf("unknown flag --%s: did you mean --%s?", name, near)
	}
	return fmt.Errorf("unknown flag --%s", name)
}

func (p *parser) names() []string {
	var out []string
	for _, r := range p.rows {
		out = append(out, r.name)
	}
	return out
}

// apply gives a row the values of the command line, of the environment, or
// its default.
func (p *parser) apply(r row, given []string) {
	if !r.many && len(given) > 1 {
		given = given[len(given)-1:] // the last one counts
	}
	label, origin := "--"+r.name, FromFlag
	if v := p.env[r.env()]; len(given) == 0 && v != "" && !r.noEnv {
		given, label, origin = []string{v}, r.env(), FromEnvironment
	}
	if r.set == nil {
		if len(given) > 0 {
			p.warnf("%s has no effect: logs go to standard error, see --v and --log-format", label)
		}
		return
	}
	if r.preset != "" {
		if err := r.set(&p.out, r.preset); err != nil {
			panic(fmt.Sprintf("options: default of --%s: %v", r.name, err))
		}
	}
	for _, v := range given {
		if err := r.set(&p.out, v); err != nil {
			p.errs = append(p.errs, fmt.Errorf("%s %q: %w", label, r.visible(v), err))
			return
		}
	}
	if shown := strings.Join(given, ", "); len(given) > 0 && shown != r.preset {
		p.out.settings = append(p.out.settings, Setting{Name: r.name, Value: r.visible(shown), Origin: origin})
	}
}

// visible is a value as it may be shown.
func (r row) visible(v string) string {
	if r.secret && v != "" {
		return redacted
	}
	return r.withoutUsers(v)
}

// withoutUsers hides user and password of URLs: even a refused one is a
// secret that somebody uses. Servers may come without a scheme.
func (r row) withoutUsers(v string) string {
	parts := strings.Split(v, "://")
	first := 1
	if r.servers {
		first = 0
	}
	for i := first; i < len(parts); i++ {
		if at := strings.LastIndexByte(parts[i], '@'); at >= 0 {
			parts[i] = redacted + parts[i][at:]
		}
	}
	return strings.Join(parts, "://")
}

// warnNearMisses warns of variables that look like a mistyped one of ours.
// Others are left alone: Kubernetes makes FLANNELD_* variables for a service
// of that name.
func (p *parser) warnNearMisses() {
	var known []string
	for _, r := range p.rows {
		known = append(known, strings.TrimPrefix(r.env(), envPrefix))
	}
	for _, name := range sortedKeys(p.env) {
		short := strings.TrimPrefix(name, envPrefix)
		near, ok := config.Nearest(short, known)
		if ok && !slices.Contains(known, short) {
			p.warnf("environment variable %s has no effect: did you mean %s?", name, envPrefix+near)
		}
	}
}

func (p *parser) warnf(format string, args ...any) {
	p.out.Warnings = append(p.out.Warnings, fmt.Sprintf(format, args...))
}
