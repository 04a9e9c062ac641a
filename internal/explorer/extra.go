package explorer

import (
	"encoding/json"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// extra is what the hosts here announce beside their leases.
type extra struct {
	Host string `json:"host"`
	Run  string `json:"run"`
	N    int    `json:"n"`
}

func (x extra) String() string {
	b, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func parseExtra(text string) extra {
	var x extra
	_ = json.Unmarshal([]byte(text), &x)
	return x
}

func extraOf(d *daemon) string { return extra{Host: d.id, Run: d.name}.String() }

// announce has a running daemon want another extra.
func (w *world) announce(m *machine) {
	d := m.daemonOf()
	if d == nil {
		return
	}
	w.mu.Lock()
	x := parseExtra(d.ask.Offer.Extra)
	x.N++
	d.ask.Offer.Extra = x.String()
	ask := d.ask
	w.note(d.name, "announces %s", ask.Offer.Extra)
	w.mu.Unlock()
	d.keeper.Ask(ask)
}

// extras checks that a lease promises only what its owner said. The caller
// holds mu.
func (w *world) extras(d *daemon, s lease.Snapshot) {
	for _, l := range s.Leases {
		if l.Offer.Extra != "" && parseExtra(l.Offer.Extra).Host != l.Owner {
			w.fail("extra: %s sees %s of owner %q with %s", d.name, l.Key, l.Owner, l.Offer.Extra)
		}
	}
}
