package checksum_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/tunnel/checksum"
)

// naive is RFC 1071 word by word.
func naive(b []byte, so uint16) uint16 {
	sum := uint32(so)
	for i, x := range b {
		sum += uint32(x) << (8 * (1 - i%2))
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSum(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		so   uint16
		want uint16
	}{
		{nil, 0, 0},
		{nil, 0x1234, 0x1234},
		{[]byte{0x12}, 0, 0x1200},
		{[]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0, 0xddf2}, // RFC 1071 §3
		{[]byte{0xff, 0xff, 0, 1}, 0, 1},
		{[]byte{0, 1}, 0xffff, 1},
	} {
		if got := checksum.Sum(c.b, c.so); got != c.want {
			t.Errorf("%x from %x: %x, want %x", c.b, c.so, got, c.want)
		}
	}
}

// All lengths, at all offsets in memory, with the bytes that carry most.
func TestSumEqualsNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 1<<16)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for _, all := range [][]byte{random, slices.Repeat([]byte{0xff}, 1<<16), make([]byte, 1<<16)} {
		for length := range 300 {
			for at := range 9 {
				compare(t, all[at:at+length], uint16(r.Uint32()))
			}
		}
		compare(t, all[1:], 0xffff)
	}
}

func compare(t *testing.T, b []byte, so uint16) {
	t.Helper()
	if got, want := checksum.Sum(b, so), naive(b, so); got != want {
		t.Fatalf("%d bytes from %x: %x, want %x", len(b), so, got, want)
	}
}

func TestPseudo(t *testing.T) {
	a := []byte{10, 5, 0, 1, 10, 5, 1, 1}
	want := naive(append(slices.Clone(a), 0, 17, 0x05, 0xc8), 0)
	if got := checksum.Pseudo(a, 17, 0x5c8); got != want {
		t.Errorf("%x, want %x", got, want)
	}
	// A sum that arrived whole, with its own checksum in it, is all ones.
	b := append(slices.Clone(a), 0, 17, 0, 2, 0, 0)
	sum := ^naive(b, 0)
	if got := checksum.Sum([]byte{byte(sum >> 8), byte(sum)}, checksum.Pseudo(a, 17, 2)); got != 0xffff {
		t.Errorf("%x, want ffff", got)
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("0123456789"), uint16(7))
	f.Fuzz(func(t *testing.T, b []byte, so uint16) { compare(t, b, so) })
}

func BenchmarkSum(b *testing.B) {
	packet := make([]byte, 1420)
	b.SetBytes(int64(len(packet)))
	for b.Loop() {
		checksum.Sum(packet, 0)
	}
}
