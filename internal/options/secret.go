package options

import "log/slog"

// redacted stands for a secret wherever people look.
const redacted = "(redacted)"

// Secret is a text that never shows itself: not in a log, not in an error, not
// in JSON, not with %v or %#v.
type Secret struct{ text string }

// NewSecret wraps a text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal returns the text, for the one place that needs it.
func (s Secret) Reveal() string { return s.text }

// String implements fmt.Stringer. It shows whether there is a secret.
func (s Secret) String() string {
	if s.text == "" {
		return ""
	}
	return redacted
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText makes JSON and other encodings redacted.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
