package ctl

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// gatewayOf returns the gateway of the route to exactly subnet in a table as
// /proc/net/route shows it, or the zero address if there is no such route or
// it has no gateway. A host without the table has no routes.
func gatewayOf(table string, subnet netip.Prefix) (netip.Addr, error) {
	f, err := os.Open(table)
	if errors.Is(err, fs.ErrNotExist) {
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, err
	}
	defer f.Close()
	via, err := findGateway(f, subnet)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %w", table, err)
	}
	return via, nil
}

// findGateway reads the table; the columns are Iface, Destination, Gateway,
// Flags, RefCnt, Use, Metric, Mask and more (proc_net(5)).
func findGateway(r io.Reader, subnet netip.Prefix) (netip.Addr, error) {
	lines := bufio.NewScanner(r)
	lines.Scan() // the heading
	for lines.Scan() {
		cols := strings.Fields(lines.Text())
		if len(cols) < 8 {
			continue // the kernel pads the end of the list with blanks
		}
		dst, gateway, mask, err := hexAddrs(cols[1], cols[2], cols[7])
		if err != nil {
			return netip.Addr{}, err
		}
		length := bits.OnesCount32(binary.BigEndian.Uint32(mask.AsSlice()))
		if netip.PrefixFrom(dst, length) == subnet && !gateway.IsUnspecified() {
			return gateway, nil
		}
	}
	return netip.Addr{}, lines.Err()
}

func hexAddrs(dst, gateway, mask string) (_, _, _ netip.Addr, err error) {
	var out [3]netip.Addr
	for i, s := range []string{dst, gateway, mask} {
		// The kernel prints the four bytes in network order as if they were
		// a number of its own.
		n, err := strconv.ParseUint(s, 16, 32)
		if err != nil {
			return netip.Addr{}, netip.Addr{}, netip.Addr{}, fmt.Errorf("address %q: %w", s, err)
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], uint32(n))
		out[i] = netip.AddrFrom4(b)
	}
	return out[0], out[1], out[2], nil
}
