// Package all lists the backends of this build. It is the one place that
// knows them all; a test fails when a backend folder is not listed.
package all

import (
	"fmt"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/alloc"
	"github.com/flannel-ng/flannel-ng/internal/backend/extension"
	"github.com/flannel-ng/flannel-ng/internal/backend/hostgw"
	"github.com/flannel-ng/flannel-ng/internal/backend/udp"
	"github.com/flannel-ng/flannel-ng/internal/backend/vxlan"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Backends returns every backend, sorted by type.
func Backends() []backend.Entry {
	return []backend.Entry{
		{Type: alloc.Type, New: alloc.New, Options: alloc.Options{}},
		{Type: extension.Type, New: extension.New, Options: extension.Options{}, Startup: extension.Startup},
		{Type: hostgw.Type, New: hostgw.New, Options: hostgw.Options{}, Adjacency: hostgw.Adjacency, Wire: hostgw.Wire},
		{Type: udp.Type, New: udp.New, Options: udp.Options{}, Wire: udp.Wire},
		{Type: vxlan.Type, New: vxlan.New, Options: vxlan.Options{}, Adjacency: vxlan.Adjacency, Wire: vxlan.Wire},
	}
}

// New makes the backend that the setup's options name.
func New(s backend.Setup) (backend.Backend, []string, error) {
	var known []string
	for _, e := range Backends() {
		if e.Type == s.Options.Type {
			return e.New(s)
		}
		known = append(known, e.Type)
	}
	return nil, nil, fmt.Errorf("Backend.Type %q: not in this build, which has %s",
		s.Options.Type, strings.Join(known, ", "))
}

// Adjacency says whether the backend that o names asks which peers are on a
// link of this host.
func Adjacency(o config.Backend) bool {
	for _, e := range Backends() {
		if e.Type == o.Type {
			return e.Adjacency != nil && e.Adjacency(o)
		}
	}
	return false
}

// Startup is the command of the backend that o names whose output Offer finds
// in facts.Node.Startup; one without words: there is none.
func Startup(o config.Backend) (state.Command, error) {
	for _, e := range Backends() {
		if e.Type == o.Type && e.Startup != nil {
			return e.Startup(o)
		}
	}
	return state.Command{}, nil
}

// Wire is what the backend that o names puts on the wire; the zero Wire: it
// cannot stand beside another.
func Wire(o config.Backend) (backend.Wire, error) {
	for _, e := range Backends() {
		if e.Type == o.Type && e.Wire != nil {
			return e.Wire(o)
		}
	}
	return backend.Wire{}, nil
}
