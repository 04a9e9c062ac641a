package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// batchSize is how many peers one system call reads or writes.
const batchSize = 4096

// Settings reads what the programs work on; zero indexes: nothing yet.
func (p *Path) Settings() (Settings, error) {
	var s fastpathSettings
	if err := p.settings.Lookup(uint32(0), &s); err != nil {
		return Settings{}, fmt.Errorf("read settings: %w", err)
	}
	return decode(s), nil
}

// SetSettings changes what the programs work on.
func (p *Path) SetSettings(s Settings) error {
	e, err := s.encode()
	if err != nil {
		return err
	}
	if err := p.settings.Put(uint32(0), e); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// Peers reads all of them.
func (p *Path) Peers() ([]Peer, error) {
	var out []Peer
	var cursor ebpf.MapBatchCursor
	keys, values := make([]fastpathSubnet, batchSize), make([]fastpathPeer, batchSize)
	for {
		n, err := p.peers.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			out = append(out, peerOf(keys[i], values[i]))
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("read peers: %w", err)
		}
	}
}

// Lookup reads the peers of exactly these subnets, as far as they are there.
func (p *Path) Lookup(subnets []netip.Prefix) ([]Peer, error) {
	var out []Peer
	for _, s := range subnets {
		key, value := subnetKey(s), fastpathPeer{}
		err := p.peers.Lookup(key, &value)
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
		case err != nil:
			return nil, fmt.Errorf("read peer %s: %w", s, err)
		case value.Bits == key.Bits: // else a larger subnet was found
			out = append(out, peerOf(key, value))
		}
	}
	return out, nil
}

// Put adds or changes peers, in order, and says how many it has done before an
// error.
func (p *Path) Put(peers []Peer) (done int, err error) {
	for done < len(peers) {
		batch := peers[done:min(len(peers), done+batchSize)]
		keys, values := make([]fastpathSubnet, len(batch)), make([]fastpathPeer, len(batch))
		for i, peer := range batch {
			if !peer.Subnet.Addr().Is4() || !peer.Dst.Is4() {
				return done, fmt.Errorf("peer %s at %s: only IPv4", peer.Subnet, peer.Dst)
			}
			keys[i], values[i] = subnetKey(peer.Subnet.Masked()), fastpathPeer{Dst: wire32(peer.Dst), Bits: uint32(peer.Subnet.Bits())}
		}
		n, err := p.peers.BatchUpdate(keys, values, nil)
		done += n
		if err != nil {
			return done, fmt.Errorf("write peers: %w", err)
		}
	}
	return done, nil
}

// Delete removes peers; one that is not there is no error.
func (p *Path) Delete(subnets []netip.Prefix) error {
	for _, s := range subnets {
		if err := p.peers.Delete(subnetKey(s)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete peer %s: %w", s, err)
		}
	}
	return nil
}

// Counters adds up what every processor has counted.
func (p *Path) Counters() (Counters, error) {
	var each []fastpathCounters
	if err := p.counters.Lookup(uint32(0), &each); err != nil {
		return Counters{}, fmt.Errorf("read counters: %w", err)
	}
	var sum Counters
	for _, c := range each {
		sum.add(c)
	}
	return sum, nil
}
