package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// relayPort is where hosts find etcd behind a relay.
const relayPort = 2378

// Relay is a link to etcd that can be slow. It lives in the lab, with an ear on
// etcd's node.
type Relay struct {
	node   *Node
	target string

	mu    sync.Mutex
	delay time.Duration
}

// relay makes the hosts' way to etcd lead through the lab.
func (e *Etcd) relay(ctx context.Context, at netip.AddrPort, target string) error {
	l, err := e.listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	e.Relay = &Relay{node: e.Node, target: target}
	go e.Relay.serve(ctx, l)
	return nil
}

// Delay holds back everything that comes from now on by d, in each direction.
func (r *Relay) Delay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = d
}

func (r *Relay) due() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.delay)
}

func (r *Relay) serve(ctx context.Context, l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return // closed
		}
		go r.carry(ctx, near)
	}
}

func (r *Relay) carry(ctx context.Context, near net.Conn) {
	defer func() { _ = near.Close() }()
	far, err := r.node.Dial(ctx, Origin{}, "tcp", r.target)
	if err != nil {
		return // the host sees the connection end
	}
	defer func() { _ = far.Close() }()
	var both sync.WaitGroup
	both.Go(func() { r.pump(far, near); _ = far.Close() })
	both.Go(func() { r.pump(near, far); _ = near.Close() })
	both.Wait()
}

// piece is what came at once, and when it may go on.
type piece struct {
	data []byte
	due  time.Time
}

// pump passes on bytes in their order; it is the way that is long, not narrow.
func (r *Relay) pump(to io.Writer, from io.Reader) {
	under := make(chan piece, 1024)
	var done sync.WaitGroup
	done.Go(func() {
		for p := range under {
			<-time.After(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				break
			}
		}
		for p := range under {
			clear(p.data) // nobody takes it any more
		}
	})
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			under <- piece{buf[:n], r.due()}
		}
		if err != nil {
			break
		}
	}
	close(under)
	done.Wait()
}
