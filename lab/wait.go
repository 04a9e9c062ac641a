package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is the pause between two looks at a condition.
const pollEvery = 50 * time.Millisecond

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error that waiting cannot cure.
func Permanent(err error) error { return permanent{err} }

// Eventually calls look until it returns nil, a Permanent error, or ctx ends;
// then it returns what look said last.
func Eventually(ctx context.Context, look func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := look(ctx)
		if err == nil {
			return nil
		}
		if last == nil || !over(ctx) {
			last = err // a look cut short by the deadline says less than the one before
		}
		if p := (permanent{}); errors.As(err, &p) {
			return p.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in time: %w", last)
		case <-tick.C:
		}
	}
}

// over says whether ctx has ended, also when nobody had the time to end it.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// Pause waits for d, or until ctx ends: then it returns its error.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
