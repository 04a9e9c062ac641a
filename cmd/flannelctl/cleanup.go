package main

import (
	"context"

	"github.com/flannel-ng/flannel-ng/internal/cleanup"
	"github.com/flannel-ng/flannel-ng/internal/ctl"
	"github.com/flannel-ng/flannel-ng/internal/options"
)

// takeOff finds the flanneld by the rules of its own flags, and cleans up after it.
func takeOff(ctx context.Context, c ctl.Cleanup) (ctl.CleanupReport, error) {
	args := []string{"--subnet-file=" + c.SubnetFile}
	if c.StateDir != "" {
		args = append(args, "--state-dir="+c.StateDir)
	}
	if c.ControlSocket != "" {
		args = append(args, "--control-socket="+c.ControlSocket)
	}
	o, err := options.Parse(args, nil)
	if err != nil {
		return ctl.CleanupReport{}, err
	}
	report, err := cleanup.Run(ctx, cleanup.Options{
		SubnetFile: o.SubnetFile, StateDir: o.StateDir, ControlSocket: o.ControlSocket, Networks: c.Networks,
		KeepState: c.KeepState, KeepForwarding: c.KeepForwarding, AllowExtension: c.AllowExtension,
		DryRun: c.DryRun, Release: c.Release, Build: version,
		Say: func(l cleanup.Line) { c.Say(ctl.CleanupLine{Act: string(l.Act), Object: l.Object, Why: l.Why}) },
	})
	return ctl.CleanupReport(report), err
}
