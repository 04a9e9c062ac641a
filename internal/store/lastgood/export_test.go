package lastgood

import "github.com/flannel-ng/flannel-ng/internal/lease"

// Decode reads a file's text as a snapshot.
func Decode(text []byte) (lease.Snapshot, error) {
	p, err := decode(text)
	if err != nil {
		return lease.Snapshot{}, err
	}
	return p.snapshot(), nil
}

// Seal puts the right header before a document.
func Seal(body string) []byte {
	return append([]byte(magic+" 1 "+sum([]byte(body))+"\n"), body...)
}
