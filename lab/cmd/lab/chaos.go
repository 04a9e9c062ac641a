package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/chaos"
)

var errUnrepaired = errors.New("not everything was repaired")

// chaosBench breaks fabrics in every way, writes the tables to standard output,
// and the result to a file.
func chaosBench(ctx context.Context, args []string) error {
	o, file, err := chaosFlags(args)
	if err != nil {
		return err
	}
	result, err := chaos.Run(ctx, o)
	if result == nil {
		return err
	}
	fmt.Print(result.Text())
	if result.Unrepaired() > 0 {
		err = errors.Join(err, errUnrepaired)
	}
	return errors.Join(err, result.Save(file))
}

func chaosFlags(args []string) (o chaos.Options, file string, err error) {
	flags := flag.NewFlagSet("lab chaos", flag.ContinueOnError)
	flags.IntVar(&o.Runs, "runs", 20, "runs of each fault")
	flags.IntVar(&o.DeafRuns, "deaf-runs", 0, "runs of each fault without notifications; 0 is a tenth of the runs, at least two")
	flags.IntVar(&o.CrowdRuns, "crowd-runs", 50, "runs of each fault with many peers")
	flags.IntVar(&o.Peers, "peers", 2000, "peers in the mode crowd")
	flags.DurationVar(&o.Soak, "soak", 10*time.Minute, "how long the mode soak takes")
	flags.Uint64Var(&o.Seed, "seed", uint64(time.Now().UnixNano()), "of the soak's dice")
	faults := flags.String("faults", "", "regular expression of the faults; none is all")
	carriers := flags.String("carriers", "", "vxlan, vxlan-direct, host-gw, udp, separated by commas; none is all")
	families := flags.String("families", "", "4, 6, dual, separated by commas; none is all")
	modes := flags.String("modes", "", "told, deaf, crowd, soak, separated by commas; none is all")
	flags.StringVar(&file, "out", "bin/chaos/chaos.json", "file for the result")
	flags.StringVar(&o.Dumps, "dumps", "bin/chaos/dumps", "directory for the state of what was not repaired")
	if err := parse(flags, args); err != nil {
		return o, "", err
	}
	if o.Runs < 1 || o.CrowdRuns < 1 || o.Peers < 4 || o.Soak < time.Second {
		return o, "", fmt.Errorf("--runs=%d --crowd-runs=%d --peers=%d --soak=%s: want at least 1, 1, 4 and 1s", o.Runs, o.CrowdRuns, o.Peers, o.Soak)
	}
	if o.DeafRuns == 0 {
		const share, least = 10, 2
		o.DeafRuns = max(least, o.Runs/share)
	}
	if o.Faults, err = regexp.Compile(*faults); err != nil {
		return o, "", fmt.Errorf("--faults: %w", err)
	}
	o.Carriers, o.Families = words(*carriers), words(*families)
	for _, m := range words(*modes) {
		o.Modes = append(o.Modes, chaos.Mode(m))
	}
	if len(o.Modes) == 0 {
		o.Modes = chaos.Modes()
	}
	for _, m := range o.Modes {
		if !slices.Contains(chaos.Modes(), m) {
			return o, "", fmt.Errorf("--modes: %q is none of %v", m, chaos.Modes())
		}
	}
	o.Progress = os.Stderr
	o.Binaries, err = ownBinaries()
	return o, file, err
}

// words splits a list at its commas; an empty one has no words.
func words(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}
