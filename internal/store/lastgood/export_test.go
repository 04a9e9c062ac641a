package lastgood

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Decode reads a file's text as a snapshot.
func Decode(text []byte) (lease.Snapshot, error) {
	p := &picture{}
	if err := decode(bytes.NewReader(text), func(body io.Reader) error { return json.NewDecoder(body).Decode(p) }); err != nil {
		return lease.Snapshot{}, err
	}
	return p.snapshot(), nil
}

// Position reads the head of a file's text.
func Position(text []byte) (cluster string, rev int64, err error) {
	var h head
	err = decode(bytes.NewReader(text), func(body io.Reader) (err error) {
		h, err = readHead(body)
		return err
	})
	return h.Cluster, h.Rev, err
}

// Seal puts the right header before a document.
func Seal(body string) []byte {
	digest := sha256.New()
	digest.Write([]byte(body))
	return append([]byte(formatHeader(digest)), body...)
}
