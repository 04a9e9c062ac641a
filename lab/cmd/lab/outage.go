package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/outage"
)

// storeOutages prints what flanneld does while etcd is out of reach.
func storeOutages(ctx context.Context, args []string) error {
	o := outage.Options{Progress: os.Stderr}
	flags := flag.NewFlagSet("lab outage", flag.ContinueOnError)
	flags.DurationVar(&o.Length, "length", time.Minute, "of each outage")
	flags.IntVar(&o.Hosts, "hosts", 3, "hosts")
	flags.StringVar(&o.Backend, "backend", "", "backend type, or its JSON object; none is vxlan")
	named := flags.String("kinds", "", "outages, separated by commas: "+strings.Join(outage.Kinds(), ", "))
	if err := parse(flags, args); err != nil {
		return err
	}
	o.Kinds = list(*named)
	var err error
	if o.Binaries, err = ownBinaries(); err != nil {
		return err
	}
	rows, err := outage.Run(ctx, o)
	if len(rows) > 0 {
		fmt.Print(outage.Text(rows, o.Length))
	}
	for _, r := range rows {
		if r.Lost > 0 {
			err = errors.Join(err, fmt.Errorf("etcd %s: %d packets lost", r.Kind, r.Lost))
		}
	}
	return err
}

// restarts prints what packets lose by restarts of flanneld.
func restarts(ctx context.Context, args []string) error {
	o := outage.RestartOptions{Progress: os.Stderr}
	flags := flag.NewFlagSet("lab restart", flag.ContinueOnError)
	named := flags.String("carriers", "", "carriers, separated by semicolons; none is all")
	upgraded := flags.String("upgraded", "", "a flanneld of another version")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *named != "" {
		o.Carriers = strings.Split(*named, ";")
	}
	var err error
	if o.Binaries, err = ownBinaries(); err != nil {
		return err
	}
	if o.Binaries.Upgraded = *upgraded; *upgraded == "" {
		return errors.New("--upgraded: which flanneld is the newer one?")
	}
	rows, err := outage.Restarts(ctx, o)
	if len(rows) > 0 {
		fmt.Print(outage.RestartText(rows))
	}
	for _, r := range rows {
		if r.Lost > 0 || r.Resets > 0 || r.Recreated > 0 {
			err = errors.Join(err, fmt.Errorf("%s with %s: not without a trace", r.Cause, r.Carrier))
		}
	}
	return err
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
