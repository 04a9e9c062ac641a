package nl

import (
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// inet6AddrGenMode is IFLA_INET6_ADDR_GEN_MODE (linux/if_link.h).
	inet6AddrGenMode = 8
	addrGenModeNone  = 1 // IN6_ADDR_GEN_MODE_NONE
)

// AddExternalVXLAN creates a VXLAN device, down, that takes every VNI and leaves
// it to programs where a packet goes ("external" of ip-link(8)).
func AddExternalVXLAN(name string, port uint16) Request {
	return newRequest(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, linkMsg(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		vxlanInfo(ae, func(ae *netlink.AttributeEncoder) {
			ae.Bytes(unix.IFLA_VXLAN_PORT, bigEndian16(port))
			ae.Uint8(unix.IFLA_VXLAN_COLLECT_METADATA, 1)
			ae.Uint8(unix.IFLA_VXLAN_LEARNING, 0)
		})
	})
}

// NoLinkLocal keeps the kernel from giving the device of an index an IPv6
// address by itself. It must come before the device is up.
func NoLinkLocal(index int) Request {
	return newRequest(unix.RTM_SETLINK, 0, linkMsg(index, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Nested(unix.IFLA_AF_SPEC, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.AF_INET6, func(ae *netlink.AttributeEncoder) error {
				ae.Uint8(inet6AddrGenMode, addrGenModeNone)
				return nil
			})
			return nil
		})
	})
}
