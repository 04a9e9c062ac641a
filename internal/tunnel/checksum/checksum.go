// Package checksum sums as the Internet protocols do (RFC 1071).
//
// It is pure, knows no byte order and no header, and makes no garbage. Called
// by tunnel/packet and tunnel/segment.
package checksum

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds b to the ones' complement sum so far, folded to 16 bits. b counts
// as the bytes behind an even number of others; an odd one gets a zero behind
// it. Of bytes that hold their own checksum the sum is 0xffff.
func Sum(b []byte, so uint16) uint16 {
	// The sum of swapped words is the swapped sum (RFC 1071 §2 (B)), so bytes
	// may be read as the most common processors like them: the result is that
	// of any.
	var sum, carry uint64
	for len(b) >= 64 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[0:8]), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:16]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:24]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:32]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[32:40]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[40:48]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[48:56]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[56:64]), carry)
		sum, carry = bits.Add64(sum, 0, carry)
		sum += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(last[:]), 0)
		sum += carry
	}
	return add(bits.ReverseBytes16(fold(sum)), so)
}

// fold adds the four words of a sum.
func fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum) //nolint:gosec // the carry is in the first part
}

// add is ones' complement addition.
func add(a, b uint16) uint16 {
	sum := uint32(a) + uint32(b)
	return uint16(sum>>16 + sum) //nolint:gosec // the same
}

// Pseudo is the sum of the header that checksums of the transport protocols
// cover besides their own (RFC 9293 §3.1, RFC 8200 §8.1). addresses are those of
// source and destination, as they stand in the IP header; length is in bytes.
func Pseudo(addresses []byte, protocol uint8, length int) uint16 {
	var rest [8]byte
	binary.BigEndian.PutUint32(rest[:], uint32(length)) //nolint:gosec // of a packet
	rest[7] = protocol
	return Sum(addresses, Sum(rest[:], 0))
}
