package forwarder

import (
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// emptying is how long calm may take: after it not even a full queue has
// anything from before.
const emptying = 500 * time.Millisecond

// boost switches offloads on, as far as the kernel knows them, if the fast
// loops read and nobody else does: whoever else reads would drop what it does
// not know.
func (f *Forwarder) boost(v *view) {
	if v.config == nil || v.config.Plain || f.shared {
		return
	}
	if err := v.ends.device.boost(); err != nil {
		f.log.Warn("device goes on without offloads", "err", err)
	}
	for _, s := range v.ends.all() {
		if err := s.boost(); err != nil {
			f.log.Warn("datagrams are not joined by the kernel", "err", err)
		}
	}
}

// calm switches them off, and waits until what came before has been read.
func (f *Forwarder) calm(v *view) {
	if v.config == nil || v.config.Plain || f.shared {
		return
	}
	if err := v.ends.device.calm(); err != nil {
		f.log.Warn("device keeps its offloads", "err", err)
	}
	for _, s := range v.ends.all() {
		if err := s.calm(); err != nil {
			f.log.Warn("datagrams are joined by the kernel", "err", err)
		}
	}
	end := time.Now().Add(emptying)
	v.ends.device.Empty(time.Until(end))
	for _, s := range v.ends.all() {
		s.Empty(time.Until(end))
	}
}

// all are the sockets that there are.
func (e ends) all() []*socket {
	var all []*socket
	for _, f := range addr.Families() {
		if s := e.sockets.At(f); s != nil {
			all = append(all, s)
		}
	}
	return all
}

// offload describes what is on.
func (v *view) offload() *tunnel.Offload {
	if v.config == nil {
		return nil
	}
	o := &tunnel.Offload{Plain: v.config.Plain}
	if o.Plain {
		return o
	}
	on := v.ends.device.offload.Load()
	for _, part := range offloads() {
		if on&part.bits != 0 {
			o.On = append(o.On, part.name)
		} else {
			o.Off = append(o.Off, part.name+": not on")
		}
	}
	for _, s := range v.ends.all() {
		f := addr.Of(s.local.Addr()).String()
		if why := s.gso.why.Load(); why != nil {
			o.Off = append(o.Off, "gso "+f+": "+*why)
		} else {
			o.On = append(o.On, "gso "+f)
		}
		if s.gro.Load() {
			o.On = append(o.On, "gro "+f)
		} else {
			o.Off = append(o.Off, "gro "+f+": not on")
		}
	}
	return o
}
