package bench

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
)

// Options say what to measure.
type Options struct {
	Binaries lab.Binaries
	Rounds   int      // of the data paths
	Peers    int      // in the rows of convergence
	Rows     []string // by name; none is all
	Progress io.Writer
}

// Bench is a run.
type Bench struct {
	Options
	begin  time.Time
	spent  time.Duration // on measurements made again
	result Result
}

// closing bounds the clean-up of a fabric.
const closing = 30 * time.Second

// Run measures and returns what it found, also if it was cut short by an error.
func Run(ctx context.Context, o Options) (*Result, error) {
	b := &Bench{Options: o, begin: time.Now()}
	b.result = Result{When: b.begin.UTC().Truncate(time.Second), Machine: Describe(), Rounds: o.Rounds}
	paths, peers, err := choose(o.Rows)
	if err != nil {
		return nil, err
	}
	if b.result.Version, err = VersionOf(ctx, o.Binaries.Flanneld); err != nil {
		return nil, err
	}
	if len(paths) > 0 {
		err = b.paths(ctx, paths)
	}
	for _, name := range peers {
		if err == nil {
			err = b.convergence(ctx, name)
		}
	}
	b.result.Took = seconds(time.Since(b.begin))
	return &b.result, err
}

// progress writes a line with the time since the start.
func (b *Bench) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Progress, "%6.1f s  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// closeFabric ends a fabric, also after ctx ended.
func closeFabric(ctx context.Context, f *lab.Fabric) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	return f.Close(end)
}

// VersionOf is what flanneld says of itself.
func VersionOf(ctx context.Context, flanneld string) (string, error) {
	out, err := command(ctx, flanneld, "--version")
	if err != nil {
		return "", fmt.Errorf("version of flanneld: %w", err)
	}
	return strings.TrimSpace(out), nil
}

// command runs a program of ours to its end.
func command(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
