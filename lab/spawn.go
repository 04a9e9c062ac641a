package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// spawner starts all processes of a fabric from one thread. The kernel sends
// the parent-death signal when the *thread* that forked ends, so it has to be
// a thread that lives exactly as long as the fabric.
type spawner struct{ jobs chan func() }

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: ending it kills what is left
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// start starts cmd so that it dies with the lab.
func (s *spawner) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	cmd.SysProcAttr.Setpgid = true // an interrupt on the terminal is for the lab alone
	started := make(chan error, 1)
	s.jobs <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// close ends the thread, and with it every process that still runs.
func (s *spawner) close() { close(s.jobs) }

// output runs cmd to its end and returns what it wrote. The error carries the
// command line and its standard error.
func (s *spawner) output(cmd *exec.Cmd) (string, error) {
	var out, diag strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := s.start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), &CommandError{Args: cmd.Args, Stderr: diag.String(), Err: err}
	}
	return out.String(), nil
}

// CommandError is a process that ended badly.
type CommandError struct {
	Args   []string
	Stderr string
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: %v: %s", strings.Join(e.Args, " "), e.Err, strings.TrimSpace(e.Stderr))
}

// Unwrap returns the *exec.ExitError or what kept the process from running.
func (e *CommandError) Unwrap() error { return e.Err }

// process is a long-running child.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
	err  error         // valid after done
}

func (s *spawner) background(cmd *exec.Cmd) (*process, error) {
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// running says whether the process has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end sends sig and waits for the process to go; ctx bounds the wait.
func (p *process) end(ctx context.Context, sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && p.running() {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s did not stop on %s", p.cmd.Path, sig), ctx.Err())
	}
}
