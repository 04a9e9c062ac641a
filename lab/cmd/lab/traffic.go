package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"

	"github.com/flannel-ng/flannel-ng/lab/traffic"
)

// trafficSize is the payload of small datagrams, in bytes.
const trafficSize = 64

// makeTraffic serves or sends until standard input closes.
func makeTraffic(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "serve" {
		return traffic.Serve(ctx, os.Stdin, os.Stdout)
	}
	if len(args) < 2 {
		return errUsage
	}
	to, err := netip.ParseAddr(args[1])
	if err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	switch {
	case args[0] == "streams" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return errUsage
		}
		return traffic.Streams(ctx, to, n)
	case args[0] == "flood":
		return traffic.Flood(ctx, to, trafficSize)
	case args[0] == "ask":
		return traffic.Ask(ctx, to, trafficSize, os.Stdout)
	default:
		return errUsage
	}
}
