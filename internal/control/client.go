package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/report"
)

// clientTimeout bounds one question: longer than the server's own limit on an
// answer would be pointless.
const clientTimeout = time.Minute

// ErrNotRunning says that no daemon listens on the socket.
var ErrNotRunning = errors.New("flanneld is not running here")

// Client asks the daemon behind one socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client; nothing is opened before the first question.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{
		Timeout: clientTimeout,
		// One question per process: a kept connection would only delay the
		// daemon's stop.
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}}
}

// Status asks for the state after the last pass.
func (c *Client) Status(ctx context.Context) (report.Status, error) {
	var s report.Status
	return s, c.get(ctx, pathStatus, &s)
}

// Plan asks what a pass would change now.
func (c *Client) Plan(ctx context.Context) ([]report.Change, error) {
	var p []report.Change
	err := c.get(ctx, pathPlan, &p)
	return p, err
}

// Events asks what happened, oldest first.
func (c *Client) Events(ctx context.Context) ([]report.Event, error) {
	var es []report.Event
	err := c.get(ctx, pathEvents, &es)
	return es, err
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://flanneld"+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("answer of flanneld on %s: %w", c.socket, err)
	}
	return nil
}

// explain turns what the kernel says into what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w (no socket %s): start it or pass --socket", ErrNotRunning, c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (nobody answers on %s): start it or pass --socket", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control socket %s is for root only: use sudo: %w", c.socket, fs.ErrPermission)
	default:
		return fmt.Errorf("ask flanneld on %s: %w", c.socket, err)
	}
}

func (c *Client) refusal(resp *http.Response) error {
	const most = 4096 // an error text; more would be garbage
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return fmt.Errorf("answer of flanneld on %s: %w", c.socket, err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("flanneld on %s does not know %s: it and flannelctl are of different versions",
			c.socket, resp.Request.URL.Path)
	}
	var p problem
	if json.Unmarshal(body, &p) != nil || p.Error == "" {
		p.Error = strings.TrimSpace(resp.Status + " " + string(body))
	}
	return fmt.Errorf("flanneld: %s", p.Error)
}
