package chaos

import "context"

// Soak is how a long time of faults at random went.
type Soak struct {
	Fails []Fail `json:"fails,omitempty"`
}

// Text is it in Markdown.
func (s *Soak) Text() string { return "" }

func (b *Bench) soak(ctx context.Context) error { return ctx.Err() }
