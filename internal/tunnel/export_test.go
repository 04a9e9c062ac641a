package tunnel

import "io"

// What the tests of frames see of them.
type (
	Request = request
	Answer  = answer
)

const (
	MaxFrame = maxFrame
	DoStatus = doStatus
)

func ReadFrame(r io.Reader, v any) error  { return readFrame(r, v) }
func WriteFrame(w io.Writer, v any) error { return writeFrame(w, v) }
