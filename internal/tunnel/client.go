package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"
)

// patience is how long a forwarder may take to introduce itself. One that takes
// longer hangs: it has nothing to wait for.
const patience = 3 * time.Second

// ErrNoForwarder says that nobody answers on the socket. It is an
// fs.ErrNotExist too.
var ErrNoForwarder = fmt.Errorf("no forwarder: %w", fs.ErrNotExist)

// Client speaks with one forwarder. It is safe for concurrent use.
type Client struct {
	hello   Hello
	conn    *net.UnixConn
	answers chan answer

	asking sync.Mutex // one question at a time

	close sync.Once
	stop  chan struct{} // closed by hangUp
	done  chan struct{} // closed when listen has ended
	err   error         // why; written before done is closed
}

// Dial opens a conversation with the forwarder on socket. ErrNoForwarder:
// there is none, though perhaps a file that one left behind. Any other error:
// somebody is there who does not speak, which Start replaces.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, answers: make(chan answer), stop: make(chan struct{}), done: make(chan struct{})}
	go c.listen()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, err := c.ask(ctx, request{Do: doHello})
	if err == nil && a.Hello == nil {
		err = fmt.Errorf("%w: hello without a name", ErrFrame)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("forwarder on %s: %w", socket, err), c.Close())
	}
	c.hello = *a.Hello
	return c, nil
}

// connect reaches whoever listens on socket. ErrNoForwarder: nobody.
func connect(ctx context.Context, socket string) (*net.UnixConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNoForwarder, socket)
	case err != nil:
		return nil, fmt.Errorf("forwarder: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// listen receives answers until the conversation ends.
func (c *Client) listen() {
	defer close(c.done)
	defer func() { _ = c.hangUp() }() // nobody reads on
	for {
		var a answer
		if c.err = readFrame(c.conn, &a); c.err != nil {
			return
		}
		select {
		case c.answers <- a:
		case <-c.stop:
			c.err = net.ErrClosed
			return
		}
	}
}

// Hello is how the forwarder introduced itself. With a Version other than
// Version it may not understand Status and Change: Replace it.
func (c *Client) Hello() Hello { return c.hello }

// Status asks the forwarder for its own account of itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	a, err := c.ask(ctx, request{Do: doStatus})
	if err == nil && a.Status == nil {
		err = fmt.Errorf("%w: no status in the answer", ErrFrame)
	}
	if err != nil {
		return Status{}, fmt.Errorf("status of forwarder %d: %w", c.hello.PID, err)
	}
	return *a.Status, nil
}

// Change tells the forwarder what is to be different. After an error the
// Config is as before, and so are the Peers.
func (c *Client) Change(ctx context.Context, ch Change) error {
	if _, err := c.ask(ctx, request{Do: doChange, Change: &ch}); err != nil {
		return fmt.Errorf("change forwarder %d: %w", c.hello.PID, err)
	}
	return nil
}

// Quit ends the forwarder, and waits until it has.
func (c *Client) Quit(ctx context.Context) error {
	_, err := c.ask(ctx, request{Do: doQuit})
	if err != nil {
		return fmt.Errorf("end forwarder %d: %w", c.hello.PID, err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end forwarder %d: %w", c.hello.PID, context.Cause(ctx))
	}
}

// Done is closed when the conversation has ended: the forwarder has, or Close
// was called, or a question got no answer in time.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the conversation. The forwarder goes on.
func (c *Client) Close() error {
	err := c.hangUp()
	<-c.done
	return err
}

func (c *Client) hangUp() error {
	var err error
	c.close.Do(func() {
		close(c.stop)
		err = c.conn.Close()
	})
	return err
}

// ask puts one question. When ctx ends before the answer the conversation does
// too: the late answer would be taken for that to the next question.
func (c *Client) ask(ctx context.Context, r request) (answer, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = c.hangUp() }) // done tells
	defer stop()
	if err := writeFrame(c.conn, r); err != nil {
		return answer{}, c.explain(ctx, err)
	}
	select {
	case a := <-c.answers:
		if a.Error != "" {
			return answer{}, errors.New(a.Error)
		}
		return a, nil
	case <-c.done:
		return answer{}, c.explain(ctx, c.err)
	}
}

// explain names the cause: that we hung up is not one.
func (c *Client) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
	return err
}
