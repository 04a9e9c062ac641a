package lease

import (
	"encoding/json"
	"errors"
	"fmt"
)

// MaxExtra bounds Offer.Extra, in bytes. Every host keeps that of every other.
const MaxExtra = 4 << 10

// ErrExtra says that an Offer.Extra cannot be kept.
var ErrExtra = errors.New("extra of the offer")

// FormatExtra is s as stores keep it: JSON without spaces, "" for null. It fails
// with ErrExtra if s is no JSON or longer than MaxExtra.
func FormatExtra(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	b, err := json.Marshal(json.RawMessage(s))
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrExtra, err)
	case len(b) > MaxExtra:
		return "", fmt.Errorf("%w: %d bytes, at most %d", ErrExtra, len(b), MaxExtra)
	case string(b) == "null":
		return "", nil
	}
	return string(b), nil
}
