package tunnel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A frame is four bytes of length, big endian, and so many of JSON.
const (
	frameHeader = 4
	// maxFrame in bytes. A peer takes about 80: all /24 of a /8 are 5 MB.
	maxFrame = 32 << 20
)

// ErrFrame says that the other side does not speak this conversation.
var ErrFrame = errors.New("not a frame")

// verb is what a request wants.
type verb string

// The verbs. Those of the prelude never change, in any version: a flanneld of
// any age can be asked to replace a forwarder of any other.
const (
	doHello    verb = "hello"    // prelude
	doHandover verb = "handover" // prelude
	doQuit     verb = "quit"     // prelude
	doStatus   verb = "status"
	doChange   verb = "change"
)

// request is one question.
type request struct {
	Do     verb    `json:"do"`
	Change *Change `json:"change,omitempty"`
}

// answer is one answer. Error excludes all others.
type answer struct {
	Error string `json:"error,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	// Status answers status, and handover and quit too: what the successor
	// starts with, and the counters at the end.
	Status *Status `json:"status,omitempty"`
	// Roles name the descriptors that come with a handover, in their order.
	Roles []Role `json:"roles,omitempty"`
}

// encode makes the frame of v.
func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes, the most is %d", ErrFrame, len(body), maxFrame)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil
}

// decode reads the frame behind head from r into v. io.EOF: nothing behind
// head, which is for the caller to judge.
func decode(head [frameHeader]byte, r io.Reader, v any) error {
	size := binary.BigEndian.Uint32(head[:])
	if size > maxFrame {
		return fmt.Errorf("%w: %d bytes, the most is %d", ErrFrame, size, maxFrame)
	}
	// It grows with what really comes: a length alone costs nothing.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(size)); err != nil {
		return whole(err)
	}
	if err := json.Unmarshal(body.Bytes(), v); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}

// whole turns an end inside a frame into an error.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readFrame reads one frame into v. io.EOF: the other side has ended between
// frames. ErrFrame: the next frame would not be found, or is not for us.
func readFrame(r io.Reader, v any) error {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	return decode(head, r, v)
}

// writeFrame sends v.
func writeFrame(w io.Writer, v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
