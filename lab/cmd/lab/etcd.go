package main

import (
	"context"
	"fmt"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// serveEtcd runs one etcd member whose data lies in /run (a node's tmpfs) and
// vanishes with it, so it need not be synced to a disk.
func serveEtcd(ctx context.Context, urls []string) error {
	cfg := embed.NewConfig()
	cfg.Dir = "/run/etcd"
	cfg.UnsafeNoFsync = true
	cfg.LogLevel = "error"
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls = nil
	for _, u := range urls {
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
