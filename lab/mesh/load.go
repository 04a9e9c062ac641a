package mesh

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// reading is what the machine, the daemons and etcd say of themselves.
type reading struct {
	at      time.Time
	daemons time.Duration // CPU time of all that run
	busy    time.Duration // of the whole machine
	etcd    map[string]float64
}

func (r *run) look(ctx context.Context) (reading, error) {
	m := reading{at: time.Now()}
	var err error
	for _, h := range r.fabric.Hosts {
		if pid := h.DaemonPID(); pid != 0 {
			m.daemons += processTime(pid)
		}
	}
	if m.busy, err = machineTime(); err != nil {
		return m, err
	}
	m.etcd, err = scrape(ctx, r.fabric.Etcd)
	return m, err
}

// since is the step between two readings. Daemons that ended in between do not
// count.
func (m reading) since(before reading) Step {
	took := m.at.Sub(before.at).Seconds()
	diff := func(name string) float64 { return m.etcd[name] - before.etcd[name] }
	return Step{
		Took:      took,
		DaemonCPU: (m.daemons - before.daemons).Seconds(),
		EtcdCPU:   diff("process_cpu_seconds_total"),
		Busy:      (m.busy - before.busy).Seconds(),
		Requests:  int(diff("unary")), Writes: int(diff("etcd_mvcc_put_total") + diff("etcd_mvcc_delete_total")),
		WatchRequests: int(diff("watch requests")), WatchMessages: int(diff("watch messages")),
		Received: diff("etcd_network_client_grpc_received_bytes_total"), Sent: diff("etcd_network_client_grpc_sent_bytes_total"),
		Watchers: int(m.etcd["etcd_debugging_mvcc_watcher_total"]), Streams: int(m.etcd["etcd_debugging_mvcc_watch_stream_total"]),
	}
}

// scrape reads etcd's metrics, and adds up those by method.
func scrape(ctx context.Context, e *lab.Etcd) (map[string]float64, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return e.Dial(ctx, lab.Origin{}, network, "127.0.0.1:2379")
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:2379/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("metrics of etcd: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics of etcd: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	sums := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		metric, labels, _ := strings.Cut(name, "{")
		sums[metric] += value
		sums[kindOf(metric, labels)] += value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("metrics of etcd: %w", err)
	}
	return sums, nil
}

func kindOf(metric, labels string) string {
	watch := strings.Contains(labels, `grpc_method="Watch"`)
	switch {
	case metric == "grpc_server_msg_received_total" && watch:
		return "watch requests"
	case metric == "grpc_server_msg_sent_total" && watch:
		return "watch messages"
	case metric == "grpc_server_handled_total" && strings.Contains(labels, `grpc_type="unary"`):
		return "unary"
	default:
		return ""
	}
}

// grants are the etcd leases that the leases of hosts live on.
func (r *run) grants(ctx context.Context, hosts []*lab.Host) ([]clientv3.LeaseID, error) {
	var publics []string
	for _, h := range hosts {
		publics = append(publics, fmt.Sprintf("%q", h.Underlay(addr.IPv4).String()))
	}
	resp, err := r.fabric.Etcd.Client.Get(ctx, lab.Prefix+"/subnets/", clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	var ids []clientv3.LeaseID
	for _, kv := range resp.Kvs {
		if slices.ContainsFunc(publics, func(p string) bool { return strings.Contains(string(kv.Value), p) }) {
			ids = append(ids, clientv3.LeaseID(kv.Lease))
		}
	}
	if len(ids) != len(hosts) {
		return nil, fmt.Errorf("%d leases of %d hosts in etcd", len(ids), len(hosts))
	}
	return ids, nil
}

func (r *run) revoke(ctx context.Context, ids []clientv3.LeaseID) error {
	for _, id := range ids {
		if _, err := r.fabric.Etcd.Client.Revoke(ctx, id); err != nil {
			return fmt.Errorf("revoke: %w", err)
		}
	}
	return nil
}

// tick is the unit of CPU time in /proc.
const tick = time.Second / 100

// processTime is the CPU time of a process; 0 if it has just ended.
func processTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	return ticks(fields[11:13])
}

func ticks(fields []string) time.Duration {
	var sum time.Duration
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

// machineTime is how long the machine's processors were busy.
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("CPU time of the machine: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0, fmt.Errorf("CPU time of the machine: %q", line)
	}
	return ticks(slices.Concat(fields[1:4], fields[6:9])), nil // without idle and waiting for disks
}

// memories are RSS and PSS of all daemons, in MB.
func memories(hosts []*lab.Host) (rss, pss Spread, err error) {
	var all, own []float64
	for _, h := range hosts {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", h.DaemonPID()))
		if err != nil {
			return rss, pss, fmt.Errorf("memory of %s: %w", h.Name, err)
		}
		all, own = append(all, megabytes(string(text), "Rss:")), append(own, megabytes(string(text), "Pss:"))
	}
	return spread(all), spread(own), nil
}

func megabytes(text, name string) float64 {
	_, rest, _ := strings.Cut(text, "\n"+name)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		return 0
	}
	return kib * 1024 / 1e6
}
