package state

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
)

// Protocol marks our routes, nexthops and neighbours (rtm_protocol,
// nh_protocol, NDA_PROTOCOL). No entry of iproute2's rt_protos uses it. It
// says "flannel-ng"; which instance of it, Owner says.
const Protocol = 70

// Owner tells the objects of one daemon from those of another on the same
// host. The instance that uses the default subnet file has flannel's own
// names, so that it can take over and hand back.
type Owner struct {
	// Instance is "" for the default instance, else six hex digits derived
	// from the path of the subnet file: stable over restarts.
	Instance string
}

// DefaultSubnetFile is the path of the default instance (reference §1.1).
const DefaultSubnetFile = "/run/flannel/subnet.env"

// ControlSocket is where the daemon with this subnet file answers: beside the
// file and named after it, so that several daemons on a host never meet.
func ControlSocket(subnetFile string) string { return strings.TrimSuffix(subnetFile, ".env") + ".sock" }

// TunnelSocket is where the forwarder process of that daemon answers.
func TunnelSocket(subnetFile string) string {
	return strings.TrimSuffix(subnetFile, ".env") + ".tunnel.sock"
}

// HookJournal is where that daemon notes which commands it ran.
func HookJournal(subnetFile string) string {
	return strings.TrimSuffix(subnetFile, ".env") + ".hooks.json"
}

// SwitchRecord is where daemons note the values that they found in kernel
// switches. Those with a subnet file below /run share one: a host has each switch
// once.
func SwitchRecord(subnetFile string) string {
	if strings.HasPrefix(subnetFile, "/run/") {
		return "/run/flannel/switches.json"
	}
	return strings.TrimSuffix(subnetFile, ".env") + ".switches.json"
}

// OwnerOf derives the owner from the absolute path of the subnet file.
func OwnerOf(subnetFile string) Owner {
	if subnetFile == DefaultSubnetFile {
		return Owner{}
	}
	sum := sha256.Sum256([]byte(subnetFile))
	return Owner{Instance: hex.EncodeToString(sum[:3])}
}

// Alias is the interface alias (IFLA_IFALIAS) that marks our links.
func (o Owner) Alias() string { return "flannel-ng" + o.Suffix() }

// Suffix goes behind names that flannel fixes (firewall chains and tables).
func (o Owner) Suffix() string {
	if o.Instance == "" {
		return ""
	}
	return "-" + o.Instance
}

// BlackholeMetric marks the owner's blackhole routes, which have no link or
// nexthop to tell them by. It is so high that they stand behind every real
// route to their destination, the bridge's above all.
func (o Owner) BlackholeMetric() uint32 {
	if o.Instance == "" {
		return math.MaxUint32
	}
	sum := sha256.Sum256([]byte(o.Instance))
	return math.MaxUint32 - uint32(max(1, binary.BigEndian.Uint16(sum[:])))
}
