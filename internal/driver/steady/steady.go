// Package steady makes the errors of atomic writes the same each time.
//
// It owns nothing and does no I/O. Called by the drivers that keep files.
package steady

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Error leaves out the random name of the temporary file: with it every retry
// would look like news, and be logged.
func Error(err error) error {
	var one *fs.PathError
	var two *os.LinkError
	switch {
	case errors.As(err, &one):
		return fmt.Errorf("%s: %w", one.Op, one.Err)
	case errors.As(err, &two):
		return fmt.Errorf("%s: %w", two.Op, two.Err)
	default:
		return err
	}
}
