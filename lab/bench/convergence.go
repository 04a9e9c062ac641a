package bench

import "context"

// Convergence is how a host follows many peers.
type Convergence struct{ Name string }

func (b *Bench) convergence(context.Context, string) error { return nil }
