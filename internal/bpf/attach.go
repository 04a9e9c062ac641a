package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Hook is one of the programs, by name, and the place where it belongs.
type Hook string

// The hooks, in the order in which they are detached: what is sent first, so
// that what comes in meanwhile still finds its way.
const (
	Out   Hook = fastpathProgFlOut   // egress of the TUN device
	In    Hook = fastpathProgFlIn    // ingress of the uplink
	Decap Hook = fastpathProgFlDecap // ingress of the hidden VXLAN device
)

// Hooks lists them all.
func Hooks() []Hook { return []Hook{Out, In, Decap} }

const linkPrefix = "link"

func linkPin(dir string, h Hook) string { return filepath.Join(dir, linkPrefix+"-"+string(h)) }

func (h Hook) side() ebpf.AttachType {
	if h == Out {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// Attachment is where a program is.
type Attachment struct {
	Link    int  // index of the device; 0: nowhere, or the device is gone
	Current bool // it is the program of this build
}

// Attached reads where the program of h is.
func (p *Path) Attached(h Hook) (Attachment, error) {
	l, err := link.LoadPinnedLink(linkPin(p.dir, h), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return Attachment{}, nil
	}
	if err != nil {
		return Attachment{}, fmt.Errorf("open attachment %s: %w", linkPin(p.dir, h), err)
	}
	a, err := p.describe(l, h)
	return a, errors.Join(err, l.Close())
}

func (p *Path) describe(l link.Link, h Hook) (Attachment, error) {
	info, err := l.Info()
	if err != nil {
		return Attachment{}, fmt.Errorf("read attachment of %s: %w", h, err)
	}
	tcx := info.TCX()
	if tcx == nil {
		return Attachment{}, fmt.Errorf("attachment of %s is of type %v", h, info.Type)
	}
	a := Attachment{Link: int(tcx.Ifindex)}
	if prog := p.programs[h]; prog != nil {
		have, err := prog.Info()
		if err != nil {
			return Attachment{}, fmt.Errorf("read program %s: %w", h, err)
		}
		id, ok := have.ID()
		a.Current = ok && id == info.Program
	}
	return a, nil
}

// Attach puts the program of h on the device of an index. One of another build
// that is there already is exchanged without a packet passing by; on another
// device it is detached, after the new one is attached.
func (p *Path) Attach(h Hook, index int) error {
	have, err := p.Attached(h)
	if err != nil {
		return err
	}
	prog := p.programs[h]
	switch {
	case prog == nil:
		return fmt.Errorf("program %s: %w", h, ErrNone)
	case have.Link == index && have.Current:
		return nil
	case have.Link == index:
		return p.exchange(h, prog)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: h.side()})
	if err != nil {
		return fmt.Errorf("attach %s to the device of index %d: %w", h, index, err)
	}
	err = unpin(linkPin(p.dir, h))
	if err == nil {
		err = l.Pin(linkPin(p.dir, h))
	}
	if err != nil {
		err = fmt.Errorf("pin attachment of %s: %w", h, err)
	}
	return errors.Join(err, l.Close())
}

func (p *Path) exchange(h Hook, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(linkPin(p.dir, h), nil)
	if err != nil {
		return fmt.Errorf("open attachment %s: %w", linkPin(p.dir, h), err)
	}
	if err = l.Update(prog); err != nil {
		err = fmt.Errorf("exchange program %s: %w", h, err)
	}
	return errors.Join(err, l.Close())
}
