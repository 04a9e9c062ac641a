// Package command runs one command of the operator: words, environment, input,
// time limit, output. There is no shell.
//
// It owns no file and keeps no process: what it starts has ended, or was
// killed, when Run returns. It never decides what to run or whether that is
// allowed. Called by the daemon and by driver/hook.
package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// MaxOutput is how much of an output Run returns at most, in bytes: the end of
// it. One of just this length may have lost its beginning.
const MaxOutput = 64 << 10

// maxShown is how much of an output an error quotes, in bytes: the end of it.
const maxShown = 2 << 10

// drain is how long the output is still read after the end of a command that
// left a process behind which holds it open.
const drain = time.Second

var (
	// ErrTimeout says that a command ran longer than its Timeout.
	ErrTimeout = errors.New("timed out")
	// ErrStopped says that a command was cut short because the daemon stops.
	ErrStopped = errors.New("cut short by the end of flanneld")
	// ErrNoProgram says that the first word became empty by expansion.
	ErrNoProgram = errors.New("no program to run")
)

// Run runs c to its end and returns what it wrote to both of its outputs. A
// command without words does nothing; without a Timeout it may take as long as
// ctx. At the end of either its whole process group is killed. The child gets
// standard input and outputs and no other descriptor of ours.
func Run(ctx context.Context, c state.Command) (output string, err error) {
	if len(c.Words) == 0 {
		return "", nil
	}
	env := append(new(exec.Cmd).Environ(), c.Env...)
	words := Expand(c.Words, env)
	if words[0] == "" {
		return "", fmt.Errorf("command %s: %w: no such variable", c.Words[0], ErrNoProgram)
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("%w after %s", ErrTimeout, c.Timeout))
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	var out tail
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, &out, &out, drain
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	sealInherited()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it succeeded, and left a process behind
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return string(out.kept), explain(words[0], err, out.kept)
}

// sealInherited keeps from children what whoever started us left open in us; what
// we open is sealed from the start. A kernel before 5.11 cannot, and then they
// inherit it as we did.
func sealInherited() { _ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }

// killGroup ends a process and those of its children that stayed with it.
func killGroup(pid int) error {
	err := unix.Kill(-pid, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// explain adds the program and the end of its output to err.
func explain(program string, err error, output []byte) error {
	if err == nil {
		return nil
	}
	if text := printable(output); text != "" {
		return fmt.Errorf("command %s: %w: %s", program, err, text)
	}
	return fmt.Errorf("command %s: %w", program, err)
}

// printable is the end of an output as one line that is safe on a terminal: a
// command may repeat what a peer sent.
func printable(output []byte) string {
	start := max(0, len(output)-maxShown)
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(string(output[start:]), ""))
	return strings.Join(strings.Fields(text), " ")
}

// Expand replaces $NAME and ${NAME} in each word by the variables of env
// (NAME=value, the last of a name counts), unknown ones by nothing. A word stays
// one word whatever a value holds, and values are not expanded again.
func Expand(words, env []string) []string {
	values := make(map[string]string, len(env))
	for _, e := range env {
		if name, value, ok := strings.Cut(e, "="); ok {
			values[name] = value
		}
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = os.Expand(w, func(name string) string { return values[name] })
	}
	return out
}

// Linger returns a context that ends d after ctx does, with ErrStopped: an
// orderly stop does not cut a command short at once.
func Linger(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			cancel(ErrStopped)
		case <-longer.Done():
		}
	})
	return longer, func() {
		stop()
		cancel(nil)
	}
}

// tail is a writer that keeps the last MaxOutput bytes.
type tail struct{ kept []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	p = p[max(0, n-MaxOutput):]
	if over := len(t.kept) + len(p) - MaxOutput; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	t.kept = append(t.kept, p...)
	return n, nil
}
