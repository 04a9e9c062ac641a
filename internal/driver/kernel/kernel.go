// Package kernel holds what the netlink drivers share: which links are ours,
// and how a list of changes becomes a batch of requests.
//
// A link is ours if its alias (IFLA_IFALIAS) is exactly that of the owner. One
// that has the wanted name and type but no alias is taken over: plain flannel
// left it. So is a VXLAN device with another alias but that of an instance, if it
// has the wanted MAC, which is made for this host: somebody labelled it anew. A TUN device that goes with its process is none that was left, but
// one in use. Any other alias makes a link foreign, and what is on a foreign link
// is foreign too: two daemons that were told the same device name by mistake
// do not wipe each other's entries.
//
// It owns no object and keeps no state. Called by the drivers beside it.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/nl"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// ErrForeign says that an object of the wanted name belongs to somebody else.
var ErrForeign = errors.New("not ours")

// Adoptable says whether have may become want: nil, or an ErrForeign that
// tells whose it is.
func Adoptable(have nl.Link, want state.Link, owner state.Owner) error {
	switch {
	case have.Alias == owner.Alias(), relabelled(have, want):
		return nil
	case have.Alias != "":
		return fmt.Errorf("link %s has the alias %q: %w", have.Name, have.Alias, ErrForeign)
	case have.Kind != string(want.Type):
		return fmt.Errorf("link %s exists and is of type %q, not %q: %w", have.Name, have.Kind, want.Type, ErrForeign)
	case have.TUN.Tap, have.TUN.MultiQueue:
		return fmt.Errorf("link %s exists and is a tap or multi-queue device: %w", have.Name, ErrForeign)
	case have.TUN.Transient:
		return fmt.Errorf("link %s goes with the process that made it, stop flannel first: %w: %w",
			have.Name, ErrForeign, unix.EBUSY)
	default:
		return nil
	}
}

// relabelled says whether have is what we made for want, under an alias that
// somebody gave it.
func relabelled(have nl.Link, want state.Link) bool {
	return want.Type == state.LinkVXLAN && have.Kind == string(want.Type) &&
		!strings.HasPrefix(have.Alias, state.Owner{}.Alias()) &&
		have.MAC == want.MAC && have.VXLAN.VNI == want.VXLAN.VNI && have.VXLAN.Port == want.VXLAN.Port
}

// Links finds, among the wanted links, those that exist and are ours or may
// become ours: name by index, for reading what is on them.
func Links(ctx context.Context, c *nl.Conn, owner state.Owner, want []state.Link) (map[int]string, error) {
	found := make(map[int]string, len(want))
	for _, w := range want {
		l, err := c.LinkNamed(ctx, w.Name)
		switch {
		case errors.Is(err, unix.ENODEV):
		case err != nil:
			return nil, fmt.Errorf("read link %s: %w", w.Name, err)
		case Adoptable(l, w, owner) == nil:
			found[l.Index] = w.Name
		}
	}
	return found, nil
}

// Named is Links the other way round: index by name.
func Named(ctx context.Context, c *nl.Conn, owner state.Owner, want []state.Link) (map[string]int, error) {
	links, err := Links(ctx, c, owner, want)
	byName := make(map[string]int, len(links))
	for index, name := range links {
		byName[name] = index
	}
	return byName, err
}

// Unlisted is the error of a reading of single objects: doubt, where the kernel
// knows listings only.
func Unlisted(what string, err error) error {
	if errors.Is(err, nl.ErrUnknown) {
		return reconcile.Doubt("%s: %v", what, err)
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// Indexes resolves link names for writing, each once.
type Indexes struct {
	conn  *nl.Conn
	owner state.Owner
	seen  map[string]index
}

type index struct {
	link nl.Link
	err  error
}

// NewIndexes starts with nothing resolved.
func NewIndexes(c *nl.Conn, owner state.Owner) *Indexes {
	return &Indexes{conn: c, owner: owner, seen: map[string]index{}}
}

// Own gives the index of a link of ours; ErrForeign if it is not.
func (x *Indexes) Own(ctx context.Context, name string) (int, error) {
	l, err := x.Any(ctx, name)
	if err == nil && l.Alias != x.owner.Alias() {
		err = fmt.Errorf("link %s has the alias %q: %w", name, l.Alias, ErrForeign)
	}
	return l.Index, err
}

// Any gives a link, whoever owns it.
func (x *Indexes) Any(ctx context.Context, name string) (nl.Link, error) {
	i, ok := x.seen[name]
	if !ok {
		i.link, i.err = x.conn.LinkNamed(ctx, name)
		if i.err != nil {
			i.err = fmt.Errorf("find link %s: %w", name, i.err)
		}
		x.seen[name] = i
	}
	return i.link, i.err
}

// portion is how many requests are made before they are sent.
const portion = 1024

// Apply makes a request of each change with build and sends those that could
// be built, additions first: nothing points at something missing meanwhile.
// What a removal no longer finds is a success. The errors say the cause; the
// result names the object.
func Apply(
	ctx context.Context, c *nl.Conn, changes []reconcile.Change,
	build func(reconcile.Change) (nl.Request, error),
) []reconcile.Result {
	o := outbox{conn: c, results: make([]reconcile.Result, len(changes))}
	for _, removals := range []bool{false, true} {
		for i, ch := range changes {
			if (ch.Op == reconcile.Remove) != removals {
				continue
			}
			o.results[i].Change = ch
			r, err := build(ch)
			o.results[i].Err = err
			if err == nil {
				o.put(ctx, r, i)
			}
		}
	}
	o.send(ctx)
	for i := range o.results {
		if o.results[i].Op == reconcile.Remove && Gone(o.results[i].Err) {
			o.results[i].Err = nil // its link went, and took it along
		}
	}
	return o.results
}

// outbox holds requests until there is a portion: those of a whole large fabric
// would take more memory than its changes.
type outbox struct {
	conn    *nl.Conn
	results []reconcile.Result
	reqs    []nl.Request
	at      []int // request → result
}

func (o *outbox) put(ctx context.Context, r nl.Request, at int) {
	o.reqs, o.at = append(o.reqs, r), append(o.at, at)
	if len(o.reqs) == portion {
		o.send(ctx)
	}
}

func (o *outbox) send(ctx context.Context) {
	for n, err := range o.conn.Do(ctx, o.reqs) {
		o.results[o.at[n]].Err = err
	}
	o.reqs, o.at = o.reqs[:0], o.at[:0]
}

// ApplyOnLinks is Apply for objects that stand on links of the owner, over a
// connection of its own. build finds the links with its second argument.
func ApplyOnLinks(
	ctx context.Context, owner state.Owner, changes []reconcile.Change,
	build func(reconcile.Change, *Indexes) (nl.Request, error),
) []reconcile.Result {
	c, err := nl.Dial()
	if err != nil {
		return Fail(changes, err)
	}
	defer func() { _ = c.Close() }()
	x := NewIndexes(c, owner)
	return Apply(ctx, c, changes, func(ch reconcile.Change) (nl.Request, error) { return build(ch, x) })
}

// Gone says whether a removal failed because there was nothing to remove.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Fail gives every change the same error: nothing could be tried.
func Fail(changes []reconcile.Change, err error) []reconcile.Result {
	results := make([]reconcile.Result, len(changes))
	for i, ch := range changes {
		results[i] = reconcile.Result{Change: ch, Err: err}
	}
	return results
}
