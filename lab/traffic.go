package lab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// respondPort is where every node answers: it takes a length and that many
// bytes, and returns their hash and the address that it saw.
const respondPort = 7777

// respond answers on the node until it is closed.
func (n *Node) respond(ctx context.Context) error {
	l, err := n.listen(ctx, "tcp", fmt.Sprintf(":%d", respondPort))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go answer(conn)
		}
	}()
	return nil
}

func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var length int64
	if err := binary.Read(conn, binary.BigEndian, &length); err != nil {
		return // the caller sees the connection end without an answer
	}
	hash := sha256.New()
	if _, err := io.CopyN(hash, conn, length); err != nil {
		return
	}
	_, _ = fmt.Fprintf(conn, "%x %s\n", hash.Sum(nil), conn.RemoteAddr())
}

// Transfer sends n random bytes to the node at to and compares hashes. It
// returns the source address that the other side saw and how long it took.
func (n *Node) Transfer(ctx context.Context, o Origin, to netip.Addr, bytes int64) (netip.Addr, time.Duration, error) {
	begin := time.Now()
	conn, err := n.Dial(ctx, o, "tcp", netip.AddrPortFrom(to, respondPort).String())
	if err != nil {
		return netip.Addr{}, 0, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	seen, err := exchange(conn, bytes)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("TCP from %s to %s: %w", n.Name, to, err)
	}
	return seen, time.Since(begin), nil
}

// ErrCorrupt is a transfer whose bytes changed on the way.
var ErrCorrupt = errors.New("hash differs")

func exchange(conn net.Conn, bytes int64) (netip.Addr, error) {
	hash := sha256.New()
	err := binary.Write(conn, binary.BigEndian, bytes)
	if err == nil {
		random := rand.NewChaCha8([32]byte{byte(bytes)})
		_, err = io.CopyN(io.MultiWriter(conn, hash), random, bytes)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	var sum, seen string
	if _, err := fmt.Fscan(conn, &sum, &seen); err != nil {
		return netip.Addr{}, fmt.Errorf("answer: %w", err)
	}
	if sum != fmt.Sprintf("%x", hash.Sum(nil)) {
		return netip.Addr{}, ErrCorrupt
	}
	from, err := netip.ParseAddrPort(seen)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("answer: %w", err)
	}
	return from.Addr().Unmap(), nil
}

// Ping sends one echo request. size is the length of the whole IP packet, sent
// with fragmenting forbidden; 0 is a small one.
func (n *Node) Ping(ctx context.Context, to netip.Addr, size int) error {
	args := []string{"ping", "-n", "-c", "1", "-W", "1"}
	if size > 0 {
		args = append(args, "-M", "do", "-s", strconv.Itoa(size-headers(to)))
	}
	out, err := n.Run(ctx, append(args, to.String())...)
	if err != nil {
		return fmt.Errorf("%w %s", err, strings.TrimSpace(out))
	}
	return nil
}

// headers is the IP and ICMP header length before an echo payload.
func headers(a netip.Addr) int {
	if a.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// Way is an ordered pair of containers in one family.
type Way struct {
	From, To *Container
	Family   addr.Family
}

func (w Way) String() string { return fmt.Sprintf("%s→%s %s", w.From.Name, w.To.Name, w.Family) }

// Ways are all ordered pairs of containers of one network in every family.
func (f *Fabric) Ways() []Way {
	var ways []Way
	for _, fam := range f.Options.Families {
		for _, from := range f.containers {
			for _, to := range f.containers {
				if from != to && from.Host.instance == to.Host.instance {
					ways = append(ways, Way{from, to, fam})
				}
			}
		}
	}
	return ways
}

// Each runs do for all ways, several at a time, each until it succeeds or ctx
// ends, and joins what failed.
func Each(ctx context.Context, ways []Way, do func(context.Context, Way) error) error {
	const together = 8
	slots := make(chan struct{}, together)
	errs := make(chan error, len(ways))
	for _, w := range ways {
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := Eventually(ctx, func(ctx context.Context) error { return do(ctx, w) })
			if err != nil {
				err = fmt.Errorf("%s: %w", w, err)
			}
			errs <- err
		}()
	}
	var all []error
	for range ways {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// PingWay sends a small packet.
func PingWay(ctx context.Context, w Way) error {
	return w.From.Ping(ctx, w.To.Addr(w.Family), 0)
}

// BigPingWay sends the largest packet that both ends may send.
func BigPingWay(ctx context.Context, w Way) error {
	size := 0
	for _, c := range []*Container{w.From, w.To} {
		mtu, err := strconv.Atoi(c.MTU)
		if err != nil {
			return Permanent(fmt.Errorf("MTU of %s: %w", c.Name, err))
		}
		if size == 0 || mtu < size {
			size = mtu
		}
	}
	return w.From.Ping(ctx, w.To.Addr(w.Family), size)
}

// Fragments counts the packets that the host had to cut for its uplink.
func (h *Host) Fragments() (int, error) {
	total := 0
	for file, field := range map[string]*regexp.Regexp{
		"net/snmp":  regexp.MustCompile(`(?m)^Ip: (?:\d+ ){18}(\d+)`),
		"net/snmp6": regexp.MustCompile(`(?m)^Ip6FragCreates\s+(\d+)`),
	} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.PID(), file))
		if err != nil {
			return 0, fmt.Errorf("counters of %s: %w", h.Name, err)
		}
		match := field.FindSubmatch(text)
		if match == nil {
			return 0, fmt.Errorf("counters of %s: no %s in %s", h.Name, field, file)
		}
		count, err := strconv.Atoi(string(match[1]))
		if err != nil {
			return 0, fmt.Errorf("counters of %s: %w", h.Name, err)
		}
		total += count
	}
	return total, nil
}
