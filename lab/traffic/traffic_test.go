package traffic_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/traffic"
)

// TestTraffic sends every kind over loopback; the server counts it.
func TestTraffic(t *testing.T) {
	orders, tell := io.Pipe()
	said, out := io.Pipe()
	served := make(chan error, 1)
	go func() { served <- traffic.Serve(t.Context(), orders, out) }()
	lines := bufio.NewScanner(said)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("server said %q", lines.Text())
	}
	count := func() traffic.Count {
		t.Helper()
		if _, err := io.WriteString(tell, "count\n"); err != nil {
			t.Fatal(err)
		}
		var c traffic.Count
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, to := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		for name, kind := range map[string]struct {
			send  func(context.Context) error
			count func(traffic.Count) uint64
		}{
			"streams": {func(ctx context.Context) error { return traffic.Streams(ctx, to, 2) }, func(c traffic.Count) uint64 { return c.Bytes }},
			"flood":   {func(ctx context.Context) error { return traffic.Flood(ctx, to, 64) }, func(c traffic.Count) uint64 { return c.Datagrams }},
		} {
			ctx, stop := context.WithCancel(t.Context())
			sent := make(chan error, 1)
			before := count()
			go func() { sent <- kind.send(ctx) }()
			deadline := time.Now().Add(10 * time.Second)
			for kind.count(count()) == kind.count(before) && time.Now().Before(deadline) {
			}
			stop()
			if err := <-sent; err != nil {
				t.Errorf("%s to %s: %v", name, to, err)
			}
			if after := count(); kind.count(after) == kind.count(before) || after.At <= before.At {
				t.Errorf("%s to %s: nothing counted between %+v and %+v", name, to, before, after)
			}
		}
	}
	ask(t)
}

func ask(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	var out bytes.Buffer
	if err := traffic.Ask(ctx, netip.MustParseAddr("127.0.0.1"), 64, &out); err != nil {
		t.Fatal(err)
	}
	var trips traffic.Trips
	if err := json.Unmarshal(out.Bytes(), &trips); err != nil {
		t.Fatal(err)
	}
	if trips.Count == 0 || trips.P50 <= 0 || trips.P99 < trips.P50 {
		t.Errorf("round trips: %+v", trips)
	}
}
