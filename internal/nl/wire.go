package nl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// header is struct nlmsghdr without its length.
type header struct {
	typ, flags uint16
	seq, port  uint32
}

const headerSize = 16

// eachMessage visits the messages of one datagram.
func eachMessage(b []byte, visit func(h header, body []byte) error) error {
	for len(b) >= headerSize {
		size := int(binary.NativeEndian.Uint32(b))
		if size < headerSize || size > len(b) {
			return fmt.Errorf("netlink message of %d bytes in %d: %w", size, len(b), unix.EBADMSG)
		}
		h := header{
			typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), port: binary.NativeEndian.Uint32(b[12:]),
		}
		if err := visit(h, b[headerSize:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }

// Error is a refusal by the kernel.
type Error struct {
	Errno   unix.Errno
	Message string // the kernel's own words, if it had any
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + " (" + e.Message + ")"
}

// Unwrap gives the errno, which in turn matches fs.ErrExist and the like.
func (e *Error) Unwrap() error { return e.Errno }

const extAckMessage = 1 // NLMSGERR_ATTR_MSG

// parseError reads struct nlmsgerr, or the status of NLMSG_DONE. It returns
// nil for an acknowledgement.
func parseError(h header, b []byte) error {
	if len(b) < 4 {
		if h.typ == unix.NLMSG_DONE {
			return nil // old kernels end some dumps without a status
		}
		return fmt.Errorf("netlink error of %d bytes: %w", len(b), unix.EBADMSG)
	}
	code := int32(binary.NativeEndian.Uint32(b))
	if code >= 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	if h.flags&unix.NLM_F_ACK_TLVS != 0 {
		e.Message = extAck(h, b[4:])
	}
	return e
}

// extAck finds the kernel's explanation behind the echoed request.
func extAck(h header, b []byte) string {
	if h.typ == unix.NLMSG_ERROR {
		skip := headerSize
		if h.flags&unix.NLM_F_CAPPED == 0 && len(b) >= headerSize {
			skip = align(int(binary.NativeEndian.Uint32(b)))
		}
		if skip > len(b) {
			return ""
		}
		b = b[skip:]
	}
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return ""
	}
	for ad.Next() {
		if ad.Type() == extAckMessage {
			return ad.String()
		}
	}
	return ""
}

// attributes visits the attributes behind a fixed header of size bytes.
func attributes(b []byte, size int, visit func(*netlink.AttributeDecoder)) error {
	if len(b) < size {
		return fmt.Errorf("netlink object of %d bytes: %w", len(b), unix.EBADMSG)
	}
	ad, err := netlink.NewAttributeDecoder(b[size:])
	if err != nil {
		return fmt.Errorf("decode netlink object: %w", err)
	}
	for ad.Next() {
		visit(ad)
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("decode netlink object: %w", err)
	}
	return nil
}

// toAddr reads an address of either family; anything else is the zero Addr.
func toAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func toMAC(b []byte) addr.MAC {
	if len(b) != len(addr.MAC{}) {
		return addr.MAC{} // not Ethernet
	}
	return addr.MAC(b)
}

func toFamily(f uint8) (addr.Family, bool) {
	switch f {
	case unix.AF_INET:
		return addr.IPv4, true
	case unix.AF_INET6:
		return addr.IPv6, true
	default:
		return 0, false
	}
}

func fromFamily(f addr.Family) uint8 {
	if f == addr.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// bigEndian16 is for the few attributes in network byte order.
func bigEndian16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
