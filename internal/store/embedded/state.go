package embedded

import (
	"fmt"
	"strings"
)

// Role is what a member is in its cluster.
type Role string

// The roles.
const (
	Starting Role = "starting"
	Learner  Role = "learner" // copies, and does not count for a majority yet
	Follower Role = "follower"
	Leader   Role = "leader"
	Orphan   Role = "without leader"
)

// State is how the member of this host stands.
type State struct {
	Name string
	Role Role
	// Members and Reachable count this one, too; zero if not known yet.
	Members, Reachable int
	Alarms             []string // what keeps the store from working, with its cure
	Err                error    // why the member does not run
}

// Serving says whether the store answers through this member.
func (s State) Serving() bool { return s.Err == nil && (s.Role == Follower || s.Role == Leader) }

// Waiting says for people what the store waits for; "" while it serves.
func (s State) Waiting() string {
	switch {
	case s.Serving():
		return ""
	case s.Err != nil:
		return "the embedded etcd does not run: " + s.Err.Error()
	case s.Role == Learner:
		return "waiting for the store: this member copies the others' data"
	case s.Members == 0:
		return "waiting for the store: the embedded etcd starts"
	case s.Members > 1 && s.Reachable == s.Members:
		return fmt.Sprintf("waiting for the store: %d of %d members reachable, and no leader: if that lasts, the others are "+
			"another cluster; a member of one that runs already joins with --etcd-embedded-join, and an empty data directory",
			s.Reachable, s.Members)
	default:
		return fmt.Sprintf("waiting for the store: %d of %d members reachable", s.Reachable, s.Members)
	}
}

// Warnings are what an operator should know although the store serves.
func (s State) Warnings() []string {
	out := append([]string(nil), s.Alarms...)
	if s.Serving() && s.Reachable > 0 && s.Reachable < s.Members {
		out = append(out, fmt.Sprintf("%d of %d members of the store reachable: flannelctl store members tells which is not",
			s.Reachable, s.Members))
	}
	return out
}

// alarmText tells what an alarm means and how to end it.
func alarmText(kind string, quota int64) string {
	switch kind {
	case "NOSPACE":
		return fmt.Sprintf("the store is full (--etcd-embedded-quota %d) and refuses writes: raise the quota on every member "+
			"and restart it, or remove what does not belong there and run etcdctl defrag; then etcdctl alarm disarm", quota>>20)
	case "CORRUPT":
		return "the data of the members of the store differs: restore the store from a snapshot (flannelctl store restore --help)"
	default:
		return "the store has the alarm " + strings.ToLower(kind) + ": see etcdctl alarm list"
	}
}
