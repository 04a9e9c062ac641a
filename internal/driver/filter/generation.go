package filter

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Generation returns the number of the nftables ruleset of this network
// namespace. The kernel raises it with every committed change of any table,
// those of iptables-nft included, so two readings with the same number saw the
// same rules. Legacy iptables rules are not covered.
func Generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("netfilter socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN,
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("nftables generation: %w", err)
	}
	for _, m := range replies {
		if gen, ok := generationOf(m.Data); ok {
			return gen, nil
		}
	}
	return 0, fmt.Errorf("nftables generation: no id in %d replies", len(replies))
}

// generationOf reads NFTA_GEN_ID behind the four bytes of struct nfgenmsg.
func generationOf(data []byte) (uint32, bool) {
	if len(data) < 4 {
		return 0, false
	}
	attrs, err := netlink.UnmarshalAttributes(data[4:])
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
			return binary.BigEndian.Uint32(a.Data), true
		}
	}
	return 0, false
}
