package embedded

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
)

// probeTimeout is how long a member may take to say anything.
const probeTimeout = time.Second

// prober asks members whether they are there, as etcd's own peers do: over
// HTTP on the port for members.
type prober struct{ client *http.Client }

func newProber(f Files) (*prober, error) {
	secure, err := f.client()
	if err != nil {
		return nil, err
	}
	return &prober{client: &http.Client{
		Timeout: probeTimeout, Transport: &http.Transport{TLSClientConfig: secure},
	}}, nil
}

func (p *prober) close() { p.client.CloseIdleConnections() }

// count says how many members answer; the own one does.
func (p *prober) count(ctx context.Context, own types.ID, members []*membership.Member) int {
	var wg sync.WaitGroup
	answers := make([]bool, len(members))
	for i, m := range members {
		wg.Go(func() { answers[i] = m.ID == own || p.answers(ctx, m.PeerURLs) })
	}
	wg.Wait()
	n := 0
	for _, yes := range answers {
		if yes {
			n++
		}
	}
	return n
}

func (p *prober) answers(ctx context.Context, urls []string) bool {
	for _, u := range urls {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u+"/version", nil)
		if err != nil {
			continue
		}
		resp, err := p.client.Do(req)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
		if resp.Body.Close() == nil {
			return true
		}
	}
	return false
}
