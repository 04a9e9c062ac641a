package etcd_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/fake"
	"github.com/flannel-ng/flannel-ng/internal/store/etcd/kv"
)

// TestRestoredAndPassedUnseen: the store is restored and, before the watch asks
// for a sign of life, has more revisions than the picture. The refusal of a
// renewal is then the only sign.
func TestRestoredAndPassedUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fake.NewServer()
		defer server.Close()
		store := etcd.New(etcd.NewClient(server.Client("host"), "/net"), etcd.Options{HostID: "me", BootID: "boot"})
		claim := lease.Claim{
			Subnets: addr.Pair(netip.MustParsePrefix("10.5.9.0/24"), netip.Prefix{}),
			Public:  addr.Pair(netip.MustParseAddr("192.0.2.1"), netip.Addr{}),
		}
		var mu sync.Mutex
		var last lease.Snapshot
		shown := func() int64 {
			mu.Lock()
			defer mu.Unlock()
			return last.Leases[0].Modified
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = store.Watch(ctx, func(s lease.Snapshot) {
				mu.Lock()
				defer mu.Unlock()
				last = s
			})
		}()
		first, err := store.Claim(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		backup := server.Backup()
		claim.Token = first.Token
		second, err := store.Claim(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		await(2 * time.Second)
		if shown() != int64(second.Token) {
			t.Fatalf("shows %d before the restore", shown())
		}
		server.Restore(backup, 0)
		for i := range 20 {
			put := kv.Op{Action: kv.Put, Span: kv.One("/net/other"), Value: fmt.Sprint(i)}
			if _, err := server.Client("admin").Txn(t.Context(), kv.Txn{Then: []kv.Op{put}}); err != nil {
				t.Fatal(err)
			}
		}
		claim.Token = second.Token
		if _, err := store.Claim(t.Context(), claim); err == nil {
			t.Fatal("renewed with a token of the lost history")
		}
		await(2 * time.Second)
		if shown() != int64(first.Token) {
			t.Errorf("still shows revision %d, the store has %d", shown(), first.Token)
		}
		cancel()
		<-done
	})
}

func await(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
