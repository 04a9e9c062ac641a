package nl

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// RuleChange is a change in a table of nftables, by iptables-nft as well.
type RuleChange struct {
	Family addr.Family
	Table  string
	Chain  string // "": the table itself, or something in it that is in no chain
}

// Commit ends the changes of one transaction.
type Commit struct {
	Port    uint32 // netlink port of whoever made it
	Process int    // its thread, as numbered on the host; 0: not told
	Name    string // of that thread
	// Own: a thread of this process made it, and not a child.
	Own bool
}

// RuleVisitor is told of transactions.
type RuleVisitor struct {
	Changed   func(RuleChange)
	Committed func(Commit)
}

// RuleSubscription receives notifications of changes of nftables tables for
// IPv4 or IPv6. What legacy iptables changes, the kernel does not tell.
type RuleSubscription struct{ feed *feed }

// ruleBuffer in bytes: the kernel tells of each rule, and a proxy may write
// thousands in one transaction.
const ruleBuffer = 4 << 20

// SubscribeRules opens a subscription in the namespace of the calling thread.
func SubscribeRules() (*RuleSubscription, error) {
	// By a port that is not the process number: those who speak nftables by a
	// library in this process get that one, and are known by it.
	sock, err := dialOwn(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	f, err := newFeed(sock, ruleBuffer)
	if err != nil {
		return nil, err
	}
	if err := f.join(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, err
	}
	return &RuleSubscription{f}, nil
}

// Close ends the subscription.
func (s *RuleSubscription) Close() error { return s.feed.sock.Close() }

// Receive waits for notifications and passes them to v. It returns ErrOverrun
// when some were lost, and the context's error when it ends.
func (s *RuleSubscription) Receive(ctx context.Context, v RuleVisitor) error {
	return s.feed.drain(ctx, v.visit)
}

func (v RuleVisitor) visit(datagram []byte) error {
	return eachMessage(datagram, func(h header, body []byte) error {
		if h.typ>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < nfgenHeader {
			return nil
		}
		if h.typ&0xff == unix.NFT_MSG_NEWGEN {
			v.Committed(decodeCommit(h, body))
		} else if c, ok := decodeRuleChange(h.typ&0xff, body); ok {
			v.Changed(c)
		}
		return nil
	})
}

// nfgenHeader is the size of struct nfgenmsg: family, version, resource.
const nfgenHeader = 4

// decodeRuleChange says also whether it concerns a family that we know. It reads
// no further than to the names: rules are long, and there are many.
func decodeRuleChange(typ uint16, b []byte) (RuleChange, bool) {
	f, ok := toFamily(b[0])
	if !ok {
		return RuleChange{}, false
	}
	c := RuleChange{Family: f}
	// The table is attribute 1 of all objects.
	chain := uint16(0)
	switch typ {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = unix.NFTA_RULE_CHAIN
	}
	ad, err := netlink.NewAttributeDecoder(b[nfgenHeader:])
	if err != nil {
		return c, true // unread: somebody has to look
	}
	for (c.Table == "" || chain != 0 && c.Chain == "") && ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			c.Table = ad.String()
		case chain:
			c.Chain = ad.String()
		}
	}
	return c, true
}

func decodeCommit(h header, b []byte) Commit {
	c := Commit{Port: h.port}
	if ad, err := netlink.NewAttributeDecoder(b[nfgenHeader:]); err == nil {
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_GEN_PROC_PID:
				c.Process = int(ad.Uint32())
			case unix.NFTA_GEN_PROC_NAME:
				c.Name = ad.String()
			}
		}
	}
	c.Own = ownCommit(c)
	return c
}

// ownCommit knows the first netfilter socket of this process by its port. What
// the kernel chose as the port of further ones tells nothing, but the thread
// does, if both count processes alike.
func ownCommit(c Commit) bool {
	if c.Port == uint32(os.Getpid()) {
		return true
	}
	if c.Port <= processMask || c.Process == 0 {
		return false
	}
	_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", c.Process))
	return err == nil
}
