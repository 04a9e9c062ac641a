package embedded

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	// keepRevisions is how much history stays: a reader that is further behind
	// reads everything again. By number and not by time, because it bounds the
	// size of the store whatever the rate of writes.
	keepRevisions = "10000"

	// defragMiB is how much a defragmentation at the start must gain. While it
	// runs a member answers nobody; at the start nobody asks yet.
	defragMiB = 32

	// Hosts full of containers stall for longer than etcd's one second. A
	// fabric bears a few seconds without a leader better than a new one for
	// nothing.
	tickMs, electionMs = 100, 2000

	// clusterToken goes into the ids of members and cluster.
	clusterToken = "flannel"
)

// WALDir is where the log of a member with this data directory lies.
func WALDir(dir string) string { return filepath.Join(dir, "member", "wal") }

// serverConfig is etcd's view of c. initial is the NAME=URL list of the
// members; state says whether they are a new cluster.
func (c Config) serverConfig(initial, state string, log *zap.Logger) (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = c.Name, c.Dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	cfg.ListenClientUrls = c.clientURLs()
	cfg.AdvertiseClientUrls = []url.URL{c.url(c.address(), c.ClientPort)}
	// A member alone on its host needs no port for others.
	cfg.ListenPeerUrls = nil
	if c.Listen.IsValid() {
		cfg.ListenPeerUrls = []url.URL{c.peerURL()}
	}
	cfg.AdvertisePeerUrls = []url.URL{c.peerURL()}
	cfg.InitialCluster, cfg.ClusterState, cfg.InitialClusterToken = initial, state, clusterToken
	if len(c.Cluster) == 0 && state == embed.ClusterStateFlagNew {
		// With an id of its own, a store that was wiped is seen to be another.
		token := make([]byte, 8)
		if _, err := rand.Read(token); err != nil {
			return nil, fmt.Errorf("random cluster id: %w", err)
		}
		cfg.InitialClusterToken = clusterToken + "-" + hex.EncodeToString(token)
	}
	cfg.ClientTLSInfo, cfg.PeerTLSInfo = c.TLS.info(), c.TLS.info()
	cfg.QuotaBackendBytes = c.Quota
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModeRevision, keepRevisions
	cfg.BootstrapDefragThresholdMegabytes = defragMiB
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.EnableGRPCGateway = false // JSON over HTTP, which nobody here speaks
	return cfg, nil
}
