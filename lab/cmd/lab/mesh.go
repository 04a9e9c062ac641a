package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab/mesh"
)

// meshBench measures how many hosts come together, writes the table to standard
// output, and the result to a file.
func meshBench(ctx context.Context, args []string) error {
	o := mesh.Options{Progress: os.Stderr}
	flags := flag.NewFlagSet("lab mesh", flag.ContinueOnError)
	flags.IntVar(&o.Hosts, "hosts", 200, "hosts")
	flags.IntVar(&o.Leave, "leave", 10, "hosts that leave and return, in percent")
	flags.StringVar(&o.Backend, "backend", "", "backend type, or its JSON object; none is vxlan")
	flags.DurationVar(&o.Limit, "limit", 2*time.Minute, "bound of each step")
	file := flags.String("out", "bin/bench/mesh.json", "file for the result")
	if err := parse(flags, args); err != nil {
		return err
	}
	if o.Hosts < 2 || o.Leave < 0 || o.Leave > 90 {
		return fmt.Errorf("--hosts=%d --leave=%d: want at least 2, and 0 to 90", o.Hosts, o.Leave)
	}
	if !slices.Contains(backends(), backendType(o.Backend)) {
		return fmt.Errorf("--backend=%s: want one of %s, or a JSON object with one of them as its Type",
			o.Backend, strings.Join(backends(), ", "))
	}
	var err error
	if o.Binaries, err = ownBinaries(); err != nil {
		return err
	}
	result, err := mesh.Run(ctx, o)
	fmt.Print(result.Text())
	return errors.Join(err, result.Save(*file))
}

// backendType is the type that the flag --backend asks for.
func backendType(text string) string {
	switch {
	case text == "":
		return "vxlan"
	case !strings.HasPrefix(text, "{"):
		return strings.ToLower(text)
	}
	var object struct{ Type string }
	if json.Unmarshal([]byte(text), &object) != nil {
		return ""
	}
	return strings.ToLower(object.Type)
}
