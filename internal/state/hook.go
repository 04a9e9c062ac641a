package state

import (
	"fmt"
	"strings"
	"time"
)

// Hook is a command of the operator that stands for an object: Run makes it,
// Undo removes it. What it did cannot be read back.
type Hook struct {
	Name string  // unique on this host: "startup", or the peer's subnets
	Run  Command // without words: nothing to run
	Undo Command // without words: nothing to undo
	// After names the hook that this one stands on: it waits for its success,
	// and is run again when that one was. "": none.
	After string
}

// Command is a program with arguments. It is executed without a shell.
type Command struct {
	// Words may contain $NAME and ${NAME}, which stand for the variables of Env
	// and of the daemon's own environment.
	Words   []string
	Env     []string // NAME=value, beside the daemon's own
	Stdin   string
	Timeout time.Duration
}

// Key implements Object.
func (h Hook) Key() Key { return Key{Kind: KindHook, Name: h.Name} }

func (h Hook) String() string {
	return fmt.Sprintf("hook %s: %s", h.Name, strings.Join(h.Run.Words, " "))
}
