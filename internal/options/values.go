package options

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// into makes a setter of a parser and a place.
func into[T any](parse func(string) (T, error), place func(*Options) *T) func(*Options, string) error {
	return func(o *Options, s string) error {
		v, err := parse(s)
		if err != nil {
			return err
		}
		*place(o) = v
		return nil
	}
}

// adding is into for a repeatable flag. An empty value, as templates leave it,
// adds nothing: an empty expression would match everything.
func adding[T any](parse func(string) (T, error), place func(*Options) *[]T) func(*Options, string) error {
	return func(o *Options, s string) error {
		if s == "" {
			return nil
		}
		v, err := parse(s)
		if err != nil {
			return err
		}
		*place(o) = append(*place(o), v)
		return nil
	}
}

func ifaceRegex(o *Options) *[]*regexp.Regexp { return &o.IfaceRegex }
func ifaceCanReach(o *Options) *netip.Addr    { return &o.IfaceCanReach }
func logLevel(o *Options) *slog.Level         { return &o.LogLevel }

func publicIP(f addr.Family) func(*Options, string) error {
	return func(o *Options, s string) error {
		a, err := anyIP(s)
		if err == nil && a.IsValid() && addr.Of(a) != f {
			err = fmt.Errorf("must be an %s address", f)
		}
		if err == nil {
			o.Public.Put(f, a)
		}
		return err
	}
}

func healthzIP(o *Options, s string) error {
	a, err := anyIP(s)
	if err != nil {
		return err
	}
	if !a.IsValid() {
		a = netip.IPv4Unspecified()
	}
	o.Healthz = netip.AddrPortFrom(a, o.Healthz.Port())
	return nil
}

func healthzPort(o *Options, s string) error {
	n, err := whole(s, 0, math.MaxUint16)
	if err != nil {
		return err
	}
	o.Healthz = netip.AddrPortFrom(o.Healthz.Addr(), uint16(n))
	return nil
}

func text(s string) (string, error) { return s, nil }

func secret(s string) (Secret, error) { return NewSecret(s), nil }

func yesNo(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("must be true or false")
	}
	return b, nil
}

func not(s string) (bool, error) {
	b, err := yesNo(s)
	return !b, err
}

// maxCount bounds what has no limit of its own, so that no product overflows.
const maxCount = math.MaxInt32

// whole reads a number as the flags of Go programs do: 0x10 is 16.
func whole(s string, lo, hi int64) (int64, error) {
	n, err := strconv.ParseInt(s, 0, 64)
	switch {
	case err == nil && n >= lo && n <= hi:
		return n, nil
	case hi == maxCount:
		return 0, fmt.Errorf("must be a whole number, at least %d", lo)
	default:
		return 0, fmt.Errorf("must be %d..%d", lo, hi)
	}
}

// count reads a number of units.
func count(unit time.Duration, lo, hi int64) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		n, err := whole(s, lo, hi)
		return time.Duration(n) * unit, err
	}
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("must be a duration such as 90s, 10m or 1h30m")
	}
	return d, nil
}

// verbosity maps klog's levels: from 4 on they are for debugging.
func verbosity(s string) (slog.Level, error) {
	const debugging = 4
	n, err := whole(s, 0, maxCount)
	if n >= debugging {
		return slog.LevelDebug, err
	}
	return slog.LevelInfo, err
}

func logFormat(s string) (Format, error) {
	f := Format(s)
	if f != FormatText && f != FormatJSON {
		return "", fmt.Errorf("must be %s or %s", FormatText, FormatJSON)
	}
	return f, nil
}

// anyIP reads an address. An empty value, as templates leave it, is none.
func anyIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errors.New("must be an IP address")
	}
	return a.Unmap(), nil
}

func expression(s string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("must be a regular expression: %w", err)
	}
	return re, nil
}

func absolute(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	p, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("must be an absolute path here: %w", err)
	}
	return p, nil
}

// keyPrefix cleans as flannel does when it joins the parts of a key, so that
// both find the same keys.
func keyPrefix(s string) (string, error) {
	if s == "" {
		return "", errors.New("must not be empty (/ is the root)")
	}
	return strings.TrimSuffix(path.Clean(s), "/"), nil
}

func endpoints(s string) ([]string, error) {
	var out []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		if err := checkEndpoint(e); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errors.New("must list at least one server")
	}
	return out, nil
}

func checkEndpoint(e string) error {
	u, err := url.Parse(e)
	switch {
	case !strings.Contains(e, "://") && strings.Contains(e, "@"):
		return errPassword
	case !strings.Contains(e, "://"):
		// host:port, which the client takes for http
		if _, _, err := net.SplitHostPort(e); err != nil {
			return errors.New("must be URLs such as https://192.0.2.1:2379, or host:port")
		}
		return nil
	case err != nil || !slices.Contains([]string{"http", "https", "unix", "unixs"}, u.Scheme):
		return errors.New("must be URLs such as https://192.0.2.1:2379")
	case u.User != nil:
		return errPassword
	}
	return nil
}

var errPassword = errors.New("must not contain a password: use etcd-username and etcd-password")
