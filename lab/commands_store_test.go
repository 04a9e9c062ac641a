package lab_test

import (
	"context"
	"os"

	"github.com/flannel-ng/flannel-ng/lab"
)

// carry FILE FROM HOSTS…: copies a file of a host to others, as an operator
// does with a snapshot.
func carry(_ context.Context, s *stage, c call) error {
	if len(c.args) < 3 {
		return errUsage
	}
	from, err := s.fabric.Host(c.arg(1))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from.Path(c.arg(0)))
	if err != nil {
		return err
	}
	return s.each(c.args[2:], func(h *lab.Host) error { return os.WriteFile(h.Path(c.arg(0)), text, 0o600) })
}
