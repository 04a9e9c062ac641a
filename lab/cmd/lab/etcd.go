package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/flannel-ng/flannel-ng/lab"
)

// serveEtcd runs one etcd member whose data lies in /run (a node's tmpfs) and
// vanishes with it, so it need not be synced to a disk. With --tls=DIR its https
// URLs show the certificate there, and ask for one.
func serveEtcd(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab etcd", flag.ContinueOnError)
	dir := flags.String("tls", "", "directory of ca.pem, cert.pem and key.pem")
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("lab etcd: %w", err)
	}
	cfg := embed.NewConfig()
	if *dir != "" {
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: filepath.Join(*dir, "cert.pem"), KeyFile: filepath.Join(*dir, "key.pem"),
			TrustedCAFile: filepath.Join(*dir, "ca.pem"), ClientCertAuth: true,
		}
	}
	cfg.Dir = lab.Data
	cfg.UnsafeNoFsync = true
	cfg.LogLevel = "error"
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls = nil
	for _, u := range flags.Args() {
		parsed, err := url.Parse(u)
		if err != nil {
			return fmt.Errorf("listen URL: %w", err)
		}
		cfg.ListenClientUrls = append(cfg.ListenClientUrls, *parsed)
	}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
		fmt.Println("ready")
	case err := <-server.Err():
		return fmt.Errorf("etcd: %w", err)
	case <-ctx.Done():
		return nil
	}
	select {
	case err := <-server.Err():
		return fmt.Errorf("etcd: %w", err)
	case <-ctx.Done():
		return nil
	}
}
