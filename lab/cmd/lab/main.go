// Command lab runs the pieces of the lab that have to be processes of their
// own (pause, etcd, flannel-udp) and the demo. It owns flags and exit codes only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var errUsage = errors.New(`usage: lab demo [flags]      three hosts, a fabric, proof that it carries
       lab bench [flags]     data paths and convergence beside the plain kernel's
       lab mesh [flags]      many daemons join one etcd at once
       lab chaos [flags]     every fault in every kind of fabric, and how it comes back
       lab torture [flags]   known packets through all data paths, compared byte for byte
       lab outage [flags]    what flanneld does while etcd is out of reach
       lab restart [flags]   what packets lose by restarts of flanneld
       lab pause NAME        hold the namespaces of a node (used by the lab)
       lab etcd [--tls=DIR] URL…
                             serve a throw-away etcd on URLs (used by the lab)
       lab flannel-udp DEVICE ADDRESS LISTEN
                             forward as plain flannel's udp backend does (used by the lab)
       lab traffic serve | streams ADDRESS N | flood ADDRESS | ask ADDRESS
                             make and count load (used by the bench)`)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "demo":
		return demo(ctx, args[1:])
	case "pause":
		return pause(args[1:])
	case "etcd":
		return serveEtcd(ctx, args[1:])
	case "bench":
		return benchmark(ctx, args[1:])
	case "mesh":
		return meshBench(ctx, args[1:])
	case "chaos":
		return chaosBench(ctx, args[1:])
	case "torture":
		return tortureTest(ctx, args[1:])
	case "outage":
		return storeOutages(ctx, args[1:])
	case "restart":
		return restarts(ctx, args[1:])
	case "traffic":
		return makeTraffic(ctx, args[1:])
	case "flannel-udp":
		return flannelUDP(ctx, args[1:])
	case "help", "-h", "--help":
		fmt.Println(errUsage)
		return nil
	default:
		return errUsage
	}
}
