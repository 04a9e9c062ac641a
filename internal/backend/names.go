package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// maxName is IFNAMSIZ without its terminating zero (netdevice(7)).
const maxName = 15

// Related keeps the links that can matter to LinkName: every name that it
// allots or is asked for starts as flannel's do. A backend may look at no other
// link of facts.Node.Links in Peer.
func Related(links []facts.Link) []facts.Link {
	var out []facts.Link
	for _, l := range links {
		if strings.HasPrefix(l.Name, "flannel") {
			out = append(out, l)
		}
	}
	return out
}

// LinkName allots the name of a device. want is the name that flannel would
// use; it is ours unless it is too long, or a device of another instance or
// one that does not fit (another port, say, or a stranger's label) bears it: then a name derived from
// the instance and want is used, so that two daemons never fight over one.
func LinkName(links []facts.Link, owner state.Owner, want string, fits func(facts.Link) bool) string {
	free := len(want) <= maxName
	for _, l := range links {
		switch {
		case l.Alias == owner.Alias() && len(l.Name) == len(otherPrefix)+otherDigits && l.Name == OtherName(owner, want):
			return l.Name // stay: a rename would cut the traffic on it
		case l.Name == want && l.Alias != owner.Alias() && (strings.HasPrefix(l.Alias, state.Owner{}.Alias()) || !fits(l)):
			free = false
		}
	}
	if free {
		return want
	}
	return OtherName(owner, want)
}

// The derived name.
const (
	otherPrefix = "flannel-"
	otherDigits = 6
)

// OtherName is a name for a device of the instance that has no other: the same
// for the same want.
func OtherName(owner state.Owner, want string) string {
	sum := sha256.Sum256([]byte(owner.Instance + "/" + want))
	return otherPrefix + hex.EncodeToString(sum[:otherDigits/2])
}
