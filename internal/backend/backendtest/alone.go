package backendtest

import (
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

// Alone is b as an engine has it when no other carrier stands beside it.
func Alone(n config.Network, b backend.Backend) *transit.Backend {
	one := transit.Carrier{Backend: n.Backend}
	return transit.New(transit.Next(transit.Situation{Config: one}), []transit.Member{{Carrier: one, Backend: b}})
}
