package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes and types of rtnetlink(7) and of nf_tables. The judge reads the kernel
// by itself, so that it shares no code with what it judges.
const (
	headerLength   = 16 // struct nlmsghdr
	nlaType        = 0x3fff
	nftGetGen      = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	nftNewGen      = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	nftaGenID      = 1
	nfGenHeader    = 4 // struct nfgenmsg
	readRoom       = 1 << 17
	answerPatience = 5 * time.Second
)

// errInterrupted is a dump during which something changed: it is made again.
var errInterrupted = errors.New("the kernel changed while it was read")

// wire is a netlink socket that asks.
type wire struct {
	fd  int
	seq uint32
	buf []byte
}

// dial opens a socket in the namespace of the calling thread.
func dial(protocol int) (*wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	patience := unix.NsecToTimeval(int64(answerPatience))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink socket: %w", err), unix.Close(fd))
	}
	return &wire{fd: fd, buf: make([]byte, readRoom)}, nil
}

func (w *wire) close() error { return unix.Close(w.fd) }

// ask sends a request and visits every message of the answer.
func (w *wire) ask(typ, flags uint16, body []byte, visit func(typ uint16, body []byte)) error {
	w.seq++
	msg := binary.NativeEndian.AppendUint32(nil, uint32(headerLength+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, typ)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|flags)
	msg = binary.NativeEndian.AppendUint32(msg, w.seq)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	if err := unix.Sendto(w.fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	dump := flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	interrupted := false
	for {
		n, _, err := unix.Recvfrom(w.fd, w.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hear the kernel: %w", err)
		}
		done, torn, err := w.take(w.buf[:n], dump, visit)
		interrupted = interrupted || torn
		switch {
		case err != nil:
			return err
		case done && interrupted:
			return errInterrupted
		case done:
			return nil
		}
	}
}

// take reads one datagram of an answer.
func (w *wire) take(raw []byte, dump bool, visit func(typ uint16, body []byte)) (done, torn bool, err error) {
	for len(raw) >= headerLength {
		size := int(binary.NativeEndian.Uint32(raw))
		if size < headerLength || size > len(raw) {
			return false, false, fmt.Errorf("message of %d bytes in %d: %w", size, len(raw), unix.EBADMSG)
		}
		typ, flags := binary.NativeEndian.Uint16(raw[4:]), binary.NativeEndian.Uint16(raw[6:])
		ours := binary.NativeEndian.Uint32(raw[8:]) == w.seq
		torn = torn || ours && flags&unix.NLM_F_DUMP_INTR != 0
		body := raw[headerLength:size]
		switch {
		case !ours: // of an answer that was given up
		case typ == unix.NLMSG_DONE:
			return true, torn, nil
		case typ == unix.NLMSG_ERROR:
			return true, torn, errnoOf(body)
		default:
			visit(typ, body)
			done = !dump
		}
		raw = raw[min(len(raw), align(size)):]
	}
	return done, torn, nil
}

func errnoOf(body []byte) error {
	if len(body) < 4 {
		return unix.EBADMSG
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// generation is the number of the firewall's last change.
func (w *wire) generation() (id uint32, err error) {
	err = w.ask(nftGetGen, 0, []byte{unix.AF_UNSPEC, 0, 0, 0}, func(typ uint16, body []byte) {
		if typ != nftNewGen || len(body) < nfGenHeader {
			return
		}
		if v := attributes(body[nfGenHeader:])[nftaGenID]; len(v) == 4 {
			id = binary.BigEndian.Uint32(v)
		}
	})
	return id, err
}

func align(n int) int { return (n + 3) &^ 3 }

// attributes are those of a message, by type; of doubled ones the last.
func attributes(b []byte) map[uint16][]byte {
	all := make(map[uint16][]byte, 8)
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		all[binary.NativeEndian.Uint16(b[2:])&nlaType] = b[4:size]
		b = b[min(len(b), align(size)):]
	}
	return all
}

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
