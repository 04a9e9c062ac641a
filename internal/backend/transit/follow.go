package transit

import (
	"errors"
	"fmt"

	"github.com/flannel-ng/flannel-ng/internal/config"
)

// ErrRestart says that running daemons do not follow a change of the network
// config.
var ErrRestart = errors.New("takes a restart of flanneld")

// Follow says how running daemons follow a change of a valid config: from one
// carrier to another, or, if both are of one wire, each by itself. The error says
// why they do not: it is ErrRestart or backend.ErrBeside.
func (k Kit) Follow(was, is config.Network) (from, to Carrier, err error) {
	if from, err = k.Of(was.Backend); err == nil {
		to, err = k.Of(is.Backend)
	}
	switch {
	case err != nil:
		return from, to, err
	case was.Pools != is.Pools:
		return from, to, fmt.Errorf("another network or size of subnets %w", ErrRestart)
	case string(was.Backend.JSON()) == string(is.Backend.JSON()):
		return from, to, nil
	case from.Wire.Name == "" || to.Wire.Name == "":
		return from, to, fmt.Errorf("from backend %s to %s %w", was.Backend.Type, is.Backend.Type, ErrRestart)
	}
	if err := to.Wire.Beside(from.Wire); err != nil {
		return from, to, fmt.Errorf("from %s to %s: %w", from.Wire.Name, to.Wire.Name, err)
	}
	return from, to, nil
}
