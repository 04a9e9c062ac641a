package state

import "iter"

// Objects walks all objects of s in the order of kinds.
func (s *Set) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		_ = walk(s.Links, yield) && walk(s.Sysctls, yield) && walk(s.Addresses, yield) &&
			walk(s.Neighbours, yield) && walk(s.FDB, yield) && walk(s.Tunnels, yield) &&
			walk(s.Ends, yield) && walk(s.FastPaths, yield) && walk(s.FastPeers, yield) &&
			walk(s.Routes, yield) && walk(s.Filters, yield) &&
			walk(s.Hooks, yield) && walk(s.Files, yield)
	}
}

func walk[T Object](all []T, yield func(Object) bool) bool {
	for _, o := range all {
		if !yield(o) {
			return false
		}
	}
	return true
}

// Add adds one object. False: it is of no kind that a Set has.
func (s *Set) Add(o Object) bool {
	switch o := o.(type) {
	case Link:
		s.Links = append(s.Links, o)
	case Sysctl:
		s.Sysctls = append(s.Sysctls, o)
	case Address:
		s.Addresses = append(s.Addresses, o)
	case Neighbour:
		s.Neighbours = append(s.Neighbours, o)
	case FDBEntry:
		s.FDB = append(s.FDB, o)
	case Tunnel:
		s.Tunnels = append(s.Tunnels, o)
	case TunnelEnd:
		s.Ends = append(s.Ends, o)
	case FastPath:
		s.FastPaths = append(s.FastPaths, o)
	case FastPeer:
		s.FastPeers = append(s.FastPeers, o)
	case Route:
		s.Routes = append(s.Routes, o)
	case Filter:
		s.Filters = append(s.Filters, o)
	case Hook:
		s.Hooks = append(s.Hooks, o)
	case File:
		s.Files = append(s.Files, o)
	default:
		return false
	}
	return true
}

// Append adds the objects of o to s. The caller sees to it that keys are
// unique.
func (s *Set) Append(o Set) {
	s.Links = append(s.Links, o.Links...)
	s.Sysctls = append(s.Sysctls, o.Sysctls...)
	s.Addresses = append(s.Addresses, o.Addresses...)
	s.Neighbours = append(s.Neighbours, o.Neighbours...)
	s.FDB = append(s.FDB, o.FDB...)
	s.Tunnels = append(s.Tunnels, o.Tunnels...)
	s.Ends = append(s.Ends, o.Ends...)
	s.FastPaths = append(s.FastPaths, o.FastPaths...)
	s.FastPeers = append(s.FastPeers, o.FastPeers...)
	s.Routes = append(s.Routes, o.Routes...)
	s.Filters = append(s.Filters, o.Filters...)
	s.Hooks = append(s.Hooks, o.Hooks...)
	s.Files = append(s.Files, o.Files...)
	if o.MTU != 0 && (s.MTU == 0 || o.MTU < s.MTU) {
		s.MTU = o.MTU
	}
}
