// Package report is what a daemon says about itself: the one value behind the
// control socket, /readyz, metrics and the tables of flannelctl.
//
// Values only. The engine fills it after each pass; web, control and
// flannelctl show it.
package report

import "time"

// Status is the state of one daemon after its last pass.
type Status struct {
	Version  string `json:"version"`
	Instance string `json:"instance,omitempty"`
	HostID   string `json:"hostId"`
	Hostname string `json:"hostname"`
	Ready    bool   `json:"ready"`
	// NotReady says why, one reason a line; empty when ready.
	NotReady []string  `json:"notReady,omitempty"`
	Started  time.Time `json:"started"`

	Network Network `json:"network"`
	Change  Transit `json:"change"`
	Lease   Lease   `json:"lease"`
	Uplink  Uplink  `json:"uplink"`
	Store   Store   `json:"store"`
	Tunnel  *Tunnel `json:"tunnel,omitempty"` // backend udp only
	Pass    Pass    `json:"pass"`
	// PeerCount counts Peers, and is known without them.
	PeerCount PeerCount  `json:"peerCount"`
	Peers     []Peer     `json:"peers"`
	Rejected  []Rejected `json:"rejected,omitempty"`
	// Warnings are conditions that do not stop traffic now: unknown config
	// keys, a config change that waits for a restart, missing br_netfilter.
	Warnings []string `json:"warnings,omitempty"`
}

// Network is the fabric's config in short.
type Network struct {
	Networks []string `json:"networks"`
	Backend  string   `json:"backend"`
	Firewall string   `json:"firewall"`
	MTU      int      `json:"mtu"`
}

// Transit is how far a change of the backend, its port or its network is
// (docs/live-change.md).
type Transit struct {
	Phase string `json:"phase"` // one of Phases
	// Carrier is what this host is known by: "vxlan vni 1 port 8472"; Config
	// what the network config says.
	Carrier string `json:"carrier"`
	Config  string `json:"config"`
	// Receives are the carriers that packets are taken from.
	Receives []string `json:"receives,omitempty"`
	Why      string   `json:"why,omitempty"` // what is waited for
}

// Phases are the steps of a change, and what keeps it from them.
func Phases() []string {
	return []string{"steady", "blocked", "held", "preparing", "receiving", "sending", "keeping"}
}

// String is one line for people.
func (c Transit) String() string {
	out := c.Carrier
	if c.Config != c.Carrier {
		out += " → " + c.Config
	}
	out += ", " + c.Phase
	if c.Why != "" {
		out += ": " + c.Why
	}
	return out
}

// Lease is this host's own lease.
type Lease struct {
	State   string    `json:"state"` // pending, held, lost
	Key     string    `json:"key,omitempty"`
	Subnets []string  `json:"subnets,omitempty"`
	Public  []string  `json:"public,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // zero: reserved, never
	Reason  string    `json:"reason,omitempty"`
}

// Uplink is the link that carries the fabric.
type Uplink struct {
	Name    string   `json:"name"`
	MTU     int      `json:"mtu"`
	Sources []string `json:"sources"`
}

// Store is the connection to the lease store.
type Store struct {
	Kind          string        `json:"kind"`
	Cluster       string        `json:"cluster,omitempty"`
	Revision      int64         `json:"revision"`
	Synced        bool          `json:"synced"`
	LastKnownGood bool          `json:"lastKnownGood,omitempty"`
	Age           time.Duration `json:"age,omitempty"` // nanoseconds since seen live
	Error         string        `json:"error,omitempty"`
}

// Tunnel is what the forwarder process of the udp backend says of itself, and
// what the kernel counted beside it. The numbers go on over a restart of the
// daemon.
type Tunnel struct {
	PID             int    `json:"pid"`
	Build           string `json:"build"`
	SentPackets     uint64 `json:"sentPackets"` // inner packets, to peers
	SentBytes       uint64 `json:"sentBytes"`
	ReceivedPackets uint64 `json:"receivedPackets"` // inner packets, from peers
	ReceivedBytes   uint64 `json:"receivedBytes"`
	// Dropped counts packets that went no further, by reason (docs/udp.md).
	Dropped map[string]uint64 `json:"dropped,omitempty"`
	// Offload is "on", and what of it is missing, or "off" and why: whether the
	// forwarder moves many packets at once (docs/udp.md).
	Offload string `json:"offload,omitempty"`
	// FastPath is "on" while the kernel carries packets between hosts that both
	// can, else "off: " and why.
	FastPath string `json:"fastPath"`
	// Of the above, what the kernel carried without the forwarder.
	KernelSentPackets     uint64 `json:"kernelSentPackets"`
	KernelReceivedPackets uint64 `json:"kernelReceivedPackets"`
	// Error is why the forwarder gave no account; its numbers are then missing.
	Error string `json:"error,omitempty"`
}

// Pass is the last reconcile pass.
type Pass struct {
	At       time.Time     `json:"at"`
	Duration time.Duration `json:"duration"` // nanoseconds
	Passes   int64         `json:"passes"`
	// Changes counts what the daemon changed since its start, by kind and
	// operation ("route add").
	Changes map[string]int64 `json:"changes,omitempty"`
	// Repairs tells, by kind and since the start, of what was found otherwise than
	// it was left.
	Repairs map[string]Repairs `json:"repairs,omitempty"`
	// Contested counts objects that are undone again and again.
	Contested int       `json:"contested,omitempty"`
	Failures  []Failure `json:"failures,omitempty"`
}

// Repairs counts what was not as it was left.
type Repairs struct {
	Found int64 `json:"found"` // otherwise than it was left
	Done  int64 `json:"done"`  // made as it should be
	// Took is the sum of the times it took, and Within how many were done within
	// each of RepairBounds. A time begins with the notification, and without one
	// when the object was last seen as it should be.
	Took   time.Duration `json:"took"`
	Within []int64       `json:"within"`
}

// RepairBounds are the upper bounds of Repairs.Within, ascending.
func RepairBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{
		5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 2500 * ms,
		5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute,
	}
}

// PeerCount counts peers by Peer.State.
type PeerCount struct {
	Programmed int `json:"programmed"`
	Failing    int `json:"failing"`
}

// Failure is an object that could not be made true.
type Failure struct {
	Object string `json:"object"`
	Error  string `json:"error"`
}

// Peer is one other host.
type Peer struct {
	Key     string   `json:"key"`
	Subnets []string `json:"subnets"`
	Public  []string `json:"public"`
	Backend string   `json:"backend"`
	// Owner is the host id, or "" for a plain flannel host.
	Owner string `json:"owner,omitempty"`
	State string `json:"state"` // programmed, failing
	Error string `json:"error,omitempty"`
}

// Rejected is a store entry that was ignored.
type Rejected struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// Change is one line of a plan (--dry-run, flannelctl plan).
type Change struct {
	Op     string `json:"op"`
	Object string `json:"object"`
	Was    string `json:"was,omitempty"`
}

// Event is something that happened, kept in memory (flannelctl events).
type Event struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"` // change, repair, fight, failure, ready, store, config
	Text   string    `json:"text"`
	Repeat int       `json:"repeat,omitempty"` // further times the same thing happened
}
