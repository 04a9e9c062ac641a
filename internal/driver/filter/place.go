package filter

// Line is one rule of a chain that others own, reduced to what decides where
// our rules have to be.
type Line struct {
	Ours bool
	// Stops: no packet gets past this rule, whatever it is (an unconditional
	// drop, reject or return).
	Stops bool
}

// Place returns the index before which our rules belong, counting foreign
// rules only: the end of the chain, or just before the first rule that stops
// everything. We never go further to the front: what stands there may be the
// work of a policy engine, and an accept of ours would bypass it.
func Place(chain []Line) int {
	i := 0
	for _, l := range chain {
		if l.Ours {
			continue
		}
		if l.Stops {
			return i
		}
		i++
	}
	return i
}

// Reached says whether packets get as far as all of our rules. Where among the
// reachable rules they are does not matter: rules that others append later do
// not make us move, or two daemons that both want to be last would race.
func Reached(chain []Line) bool {
	stopped := false
	for _, l := range chain {
		if l.Ours && stopped {
			return false
		}
		stopped = stopped || !l.Ours && l.Stops
	}
	return true
}
