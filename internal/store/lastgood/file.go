package lastgood

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// The file is one line, "flannel-ng-last-known-good VERSION SHA256", and a
// JSON document that the checksum is of.
const (
	magic   = "flannel-ng-last-known-good"
	version = 1
)

var (
	errFormat   = errors.New("not a last-known-good file")
	errVersion  = errors.New("written by a newer version")
	errChecksum = errors.New("damaged: its checksum is wrong")
	errIdentity = errors.New("is of another fabric")
	errHead     = errors.New("does not begin as it must")
)

// head is the beginning of the document: what must be known of a picture
// before anybody needs it.
type head struct {
	Saved    time.Time `json:"saved"`
	Identity string    `json:"identity"`
	Cluster  string    `json:"cluster"`
	Rev      int64     `json:"rev"`
}

// picture is the document.
type picture struct {
	head
	Config *string   `json:"config"` // null: there was none
	Leases []record  `json:"leases"`
	Recent []expired `json:"recent,omitempty"`
}

// record is a lease. Absent families are null.
type record struct {
	Key      string          `json:"key"`
	Subnets  [2]netip.Prefix `json:"subnets"`
	Public   [2]netip.Addr   `json:"public"`
	Backend  string          `json:"backend"`
	Data     [2]string       `json:"data"`
	Extra    string          `json:"extra,omitempty"`
	Owner    string          `json:"owner,omitempty"`
	Reserved bool            `json:"reserved,omitempty"`
	Created  int64           `json:"created"`
	Modified int64           `json:"modified"`
}

type expired struct {
	Subnet netip.Prefix `json:"subnet"`
	Until  time.Time    `json:"until"`
}

func newRecord(l *lease.Lease) record {
	return record{
		Key: l.Key, Subnets: both(l.Subnets), Public: both(l.Public),
		Backend: l.Offer.Backend, Data: both(l.Offer.Data), Extra: l.Offer.Extra,
		Owner: l.Owner, Reserved: l.Reserved, Created: l.Created, Modified: l.Modified,
	}
}

func both[T any](b addr.ByFamily[T]) [2]T { return [2]T{b.At(addr.IPv4), b.At(addr.IPv6)} }

func pair[T any](b [2]T) addr.ByFamily[T] { return addr.Pair(b[0], b[1]) }

// snapshot is p as it was seen, but not live.
func (p *picture) snapshot() lease.Snapshot {
	s := lease.Snapshot{Cluster: p.Cluster, Rev: p.Rev}
	if p.Config != nil {
		s.Config = []byte(*p.Config)
	}
	for _, r := range p.Leases {
		s.Leases = append(s.Leases, &lease.Lease{
			Key: r.Key, Subnets: pair(r.Subnets), Public: pair(r.Public),
			Offer: lease.Offer{Backend: r.Backend, Data: pair(r.Data), Extra: r.Extra},
			Owner: r.Owner, Reserved: r.Reserved, Created: r.Created, Modified: r.Modified,
		})
	}
	for _, r := range p.Recent {
		s.Recent = append(s.Recent, lease.Recent(r))
	}
	return s
}

// encode writes s as a document, lease by lease: a text of all of a large
// fabric would take more memory than the leases themselves.
func encode(w io.Writer, s lease.Snapshot, h head) error {
	out := encoder{w: w}
	first := picture{head: h}
	if s.Config != nil {
		text := string(s.Config)
		first.Config = &text
	}
	out.put(first, len(`,"leases":null}`))
	out.text(`,"leases":[`)
	for i, l := range s.Leases {
		out.comma(i)
		out.put(newRecord(l), 0)
	}
	out.text(`]`)
	if len(s.Recent) > 0 {
		out.text(`,"recent":[`)
		for i, r := range s.Recent {
			out.comma(i)
			out.put(expired(r), 0)
		}
		out.text(`]`)
	}
	out.text("}\n")
	return out.err
}

// encoder writes JSON piece by piece and keeps the first error.
type encoder struct {
	w   io.Writer
	err error
}

func (e *encoder) text(s string) { e.write([]byte(s)) }

func (e *encoder) write(b []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(b)
	}
}

func (e *encoder) comma(i int) {
	if i > 0 {
		e.text(",\n")
	}
}

// put writes v as JSON without its last cut bytes.
func (e *encoder) put(v any, cut int) {
	b, err := json.Marshal(v)
	if err != nil {
		e.err = errors.Join(e.err, err)
		return
	}
	e.write(b[:len(b)-cut])
}

func formatHeader(digest hash.Hash) string {
	return fmt.Sprintf("%s %d %s\n", magic, version, hex.EncodeToString(digest.Sum(nil)))
}

// write puts the picture s into file.
func write(file *renameio.PendingFile, s lease.Snapshot, h head) error {
	digest := sha256.New()
	if _, err := file.WriteString(formatHeader(digest)); err != nil { // to be overwritten
		return err
	}
	out := bufio.NewWriterSize(io.MultiWriter(digest, file), 64<<10)
	if err := encode(out, s, h); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(formatHeader(digest)), 0)
	return err
}

// decode refuses whatever write did not write. read takes from the document
// what it wants.
func decode(text io.Reader, read func(io.Reader) error) error {
	in := bufio.NewReader(text)
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	want, err := parseHeader(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return err
	}
	digest := sha256.New()
	body := io.TeeReader(in, digest)
	wrong := read(body)
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	switch {
	case want != hex.EncodeToString(digest.Sum(nil)):
		return errChecksum
	case wrong != nil:
		return fmt.Errorf("%w: %w", errFormat, wrong)
	}
	return nil
}

func parseHeader(line string) (sum string, err error) {
	words := strings.Split(line, " ")
	if len(words) < 2 || words[0] != magic {
		return "", errFormat
	}
	v, err := strconv.Atoi(words[1])
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: version %q", errFormat, words[1])
	case v > version:
		return "", fmt.Errorf("%w: version %d, not %d", errVersion, v, version)
	case v != version || len(words) != 3:
		return "", fmt.Errorf("%w: header %q", errFormat, line)
	}
	return words[2], nil
}

// readHead reads the head of a document and none of its leases.
func readHead(body io.Reader) (head, error) {
	var h head
	d := json.NewDecoder(body)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return h, errHead
	}
	for _, field := range []struct {
		name string
		into any
	}{{"saved", &h.Saved}, {"identity", &h.Identity}, {"cluster", &h.Cluster}, {"rev", &h.Rev}} {
		if t, err := d.Token(); err != nil || t != field.name {
			return h, errHead
		}
		if err := d.Decode(field.into); err != nil {
			return h, fmt.Errorf("%s: %w", field.name, err)
		}
	}
	return h, nil
}
