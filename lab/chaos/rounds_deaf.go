package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// deaf does every fault without the kernel's notifications, three at once: one
// on each host, for each waits for the next full pass.
func (a *arena) deaf(ctx context.Context, rounds int) error {
	for round := range rounds {
		var batch []int
		for i, f := range a.faults {
			if f.wide || f.mute || f.dark || len(a.rows[i].Fails) >= giveUp {
				continue
			}
			if batch = append(batch, i); len(batch) < real3 {
				continue
			}
			if err := a.together(ctx, batch, round); err != nil {
				return err
			}
			batch = nil
		}
		if err := a.together(ctx, batch, round); err != nil {
			return err
		}
		a.progress("%s: deaf round %d of %d, %d not repaired so far", a.name(), round+1, rounds, a.failed())
	}
	return nil
}

// together does faults at once, the first on the host whose turn it is.
func (a *arena) together(ctx context.Context, faults []int, round int) error {
	if len(faults) == 0 {
		return nil
	}
	if err := a.scene.silence(true); err != nil {
		return err
	}
	verdicts := make([]verdict, len(faults))
	var wg sync.WaitGroup
	for n, i := range faults {
		t := a.scene.trial(&a.faults[i], (n+round)%real3, i+round)
		verdicts[n] = verdict{trial: t, row: a.rows[i], deaf: true}
		wg.Go(func() {
			o, err := t.run(ctx)
			if err != nil {
				o.failure = err
			}
			verdicts[n].outcome = o
		})
	}
	wg.Wait()
	a.meter.read(a.scene)
	return errors.Join(a.judgeAll(ctx, verdicts), a.scene.silence(false))
}

// judgeAll notes deaf trials and takes them back, with notifications again.
func (a *arena) judgeAll(ctx context.Context, all []verdict) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, v := range all {
		if v.failure != nil {
			a.fail(ctx, v, v.failure)
			continue
		}
		v.row.Deaf.Millis = append(v.row.Deaf.Millis, float64(v.took.Microseconds())/1000)
	}
	if err := a.scene.silence(false); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	var errs []error
	for _, v := range all {
		errs = append(errs, v.after(wait))
	}
	err := errors.Join(append(errs, a.scene.whole(wait), a.scene.carries(wait, a.scene.marks()))...)
	if err == nil {
		return nil
	}
	failed := false
	for _, v := range all {
		failed = failed || v.failure != nil
	}
	if !failed {
		a.fail(ctx, all[0], fmt.Errorf("afterwards %w", err))
	}
	return a.renew(ctx)
}

// silence makes all daemons deaf, or lets them hear again.
func (s *scene) silence(on bool) error {
	s.deaf = on
	for _, h := range s.fabric.Hosts {
		do := hear
		if on {
			do = deafen
		}
		if err := do(h.DaemonPID()); err != nil {
			return fmt.Errorf("notifications of %s: %w", h.Name, err)
		}
	}
	return nil
}
