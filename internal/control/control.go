// Package control is the conversation between a daemon and flannelctl on the
// same host: JSON over HTTP over a unix socket that only root can open.
//
// It owns the socket and the paths below /v1. It changes nothing on the host
// and imports no store, backend or driver. The daemon serves a Source;
// flannelctl calls Client.
package control

import (
	"context"

	"github.com/flannel-ng/flannel-ng/internal/report"
)

// The paths. A change that an older client would misread gets a new version
// beside the old one.
const (
	pathStatus = "/v1/status"
	pathPlan   = "/v1/plan"
	pathEvents = "/v1/events"
)

// Source is what a daemon tells. It must be safe for concurrent use.
type Source interface {
	// Status is the state after the last pass.
	Status() report.Status
	// Plan compares anew and lists what a pass would change now, changing
	// nothing.
	Plan(ctx context.Context) ([]report.Change, error)
	// Events lists what happened, oldest first.
	Events() []report.Event
}

// problem is the body of every answer that is not 200.
type problem struct {
	Error string `json:"error"`
}
