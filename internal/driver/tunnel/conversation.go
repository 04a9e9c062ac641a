package tunnel

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// conversation is a client whose end is noticed.
type conversation struct {
	*tunnel.Client
	left atomic.Bool // it is ours to end, and no news
	told chan struct{}
}

// keep watches over c until it ends.
func (d *Driver) keep(c *tunnel.Client) *conversation {
	v := &conversation{Client: c, told: make(chan struct{})}
	d.open = v
	go func() {
		defer close(v.told)
		<-c.Done()
		if !v.left.Load() {
			d.o.Log.Warn("forwarder ended", "pid", c.Hello().PID)
			d.o.Wake()
		}
	}()
	return v
}

// leave ends the conversation that is open, if any.
func (d *Driver) leave() {
	if d.open == nil {
		return
	}
	d.open.left.Store(true)
	_ = d.open.Close() // nothing is unsent
	<-d.open.told
	d.open = nil
}

// meet gives the conversation with whoever answers on the socket. Errors as
// those of tunnel.Dial.
func (d *Driver) meet(ctx context.Context) (*conversation, error) {
	if d.open != nil {
		select {
		case <-d.open.Done():
			d.leave()
		default:
			return d.open, nil
		}
	}
	c, err := tunnel.Dial(ctx, d.o.Process.Socket)
	if err != nil {
		return nil, err
	}
	return d.keep(c), nil
}

// status asks for everything. The forwarder that a conversation was kept with
// may have ended since: then another one may have its place.
func (d *Driver) status(ctx context.Context) (tunnel.Status, error) {
	kept := d.open != nil
	st, err := d.statusOnce(ctx)
	if kept && err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return d.statusOnce(ctx)
	}
	return st, err
}

func (d *Driver) statusOnce(ctx context.Context) (tunnel.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := d.meet(ctx)
	if err != nil {
		return tunnel.Status{}, err
	}
	st, err := c.Status(ctx)
	if err != nil {
		d.leave()
	}
	return st, err
}

// start gives a forwarder of this build: the one that is there, one that takes
// over from it, or a new one. A new one may have leftovers that no plan has
// seen, so a pass has to follow.
func (d *Driver) start(ctx context.Context) (*conversation, error) {
	ctx, cancel := context.WithTimeout(ctx, effort)
	defer cancel()
	var old *conversation
	var err error
	if !d.silent {
		old, err = d.meet(ctx)
	}
	if err == nil && old != nil && d.fault(old.Hello()) == "" {
		return old, nil
	}
	if unreachable(err) && !errors.Is(err, tunnel.ErrNoForwarder) {
		return nil, err
	}
	d.silent = false // or the next to be told would be replaced, too
	var c *tunnel.Client
	if old != nil {
		old.left.Store(true)
		c, err = tunnel.Replace(ctx, old.Client, d.o.Process)
		d.leave() // after an error it is met again by the next pass
	} else {
		c, err = tunnel.Start(ctx, d.o.Process)
	}
	if err != nil {
		return nil, err
	}
	d.o.Log.Info("forwarder started", "pid", c.Hello().PID, "build", c.Hello().Build)
	d.o.Wake()
	return d.keep(c), nil
}

// stop ends the forwarder, by force if it has not answered, or does not listen.
func (d *Driver) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, effort)
	defer cancel()
	if d.open != nil {
		d.open.left.Store(true)
		err := d.quit(ctx)
		d.leave()
		if err == nil {
			return nil
		}
	}
	last, err := tunnel.Succeed(ctx, d.o.Process.Socket, d.o.Log)
	if errors.Is(err, tunnel.ErrNoForwarder) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range last.Descriptors {
		errs = append(errs, f.File.Close())
	}
	_, err = last.Quit()
	return errors.Join(append(errs, err)...)
}

// quit asks the forwarder to end. One that hangs over it must leave time to end
// it by force.
func (d *Driver) quit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return d.open.Quit(ctx)
}
