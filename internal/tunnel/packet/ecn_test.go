package packet_test

import (
	"bytes"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/packet"
)

// The table of RFC 6040 §4.2, figure 4; -1: drop.
func TestCombine(t *testing.T) {
	const not, ect1, ect0, ce, drop = packet.NotECT, packet.ECT1, packet.ECT0, packet.CE, -1
	table := map[packet.ECN]map[packet.ECN]int{ // inner, outer
		not:  {not: int(not), ect0: int(not), ect1: int(not), ce: drop},
		ect0: {not: int(ect0), ect0: int(ect0), ect1: int(ect1), ce: int(ce)},
		ect1: {not: int(ect1), ect0: int(ect1), ect1: int(ect1), ce: int(ce)},
		ce:   {not: int(ce), ect0: int(ce), ect1: int(ce), ce: int(ce)},
	}
	for inner, row := range table {
		for outer, want := range row {
			for _, b := range [][]byte{marked4(0xb8 | byte(inner)), marked6(0xb8 | byte(inner))} {
				was := bytes.Clone(b)
				passes := packet.Combine(b, outer)
				if passes != (want != drop) {
					t.Errorf("inner %d outer %d: passes %t", inner, outer, passes)
				}
				if !passes {
					continue
				}
				if _, err := packet.Parse(b); err != nil || packet.ECNIn(b) != packet.ECN(want) {
					t.Errorf("inner %d outer %d: %x, %v; want %d", inner, outer, b[:12], err, want)
				}
				// Nothing else changes.
				if again := remark(b, inner); !bytes.Equal(again, was) {
					t.Errorf("inner %d outer %d: %x, was %x", inner, outer, b, was)
				}
			}
		}
	}
}

func marked4(class byte) []byte {
	b := []byte{0x45, class, 0, 20, 0x12, 0x34, 0x40, 0, 63, 17, 0, 0, 10, 5, 1, 9, 10, 5, 2, 9}
	sumHeader(b)
	return b
}

func marked6(class byte) []byte {
	b := make([]byte, 40)
	b[0], b[1], b[6] = 0x60|class>>4, class<<4|0x0a, 59
	return b
}

// remark gives b the mark by hand.
func remark(b []byte, mark packet.ECN) []byte {
	b = bytes.Clone(b)
	if b[0]>>4 == 6 {
		b[1] = b[1]&^0x30 | byte(mark)<<4
		return b
	}
	b[1] = b[1]&^3 | byte(mark)
	sumHeader(b)
	return b
}

func sumHeader(b []byte) {
	b[10], b[11] = 0, 0
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	b[10], b[11] = byte(sum>>8), byte(sum)
}

func TestLength(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		want int
	}{
		{nil, 0},
		{marked4(0)[:19], 0},
		{marked6(0)[:39], 0},
		{make([]byte, 60), 0},
		{marked4(0), 20},
		{append(marked4(0), 1, 2, 3), 20},
		{marked6(0), 40},
	} {
		if got := packet.Length(c.b); got != c.want {
			t.Errorf("%x: %d, want %d", c.b, got, c.want)
		}
	}
}
