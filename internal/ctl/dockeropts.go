package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
)

func (a *app) dockerOptsCommand() *cobra.Command {
	var (
		from, to string
		o        subnetenv.DockerOptions
	)
	cmd := &cobra.Command{
		Use:   "docker-opts",
		Short: "Write the options that put a Docker daemon on this host's subnet",
		Long: `Turn subnet.env into an environment file for a Docker daemon. Without -i or -c
both forms are written. A subnet.env that is not there yet gives no options.

DOCKER_OPT_… variables and the combined variable are taken along from the
environment.

It fails, after writing, while a route sends this host's own subnet through a
gateway: such a route is left over from another owner of the subnet, and
containers could not be reached.`,
		Args: none,
		RunE: func(*cobra.Command, []string) error {
			if !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(o.Key) {
				return fmt.Errorf("-k %q: a variable's name has letters, digits and underscores", o.Key)
			}
			o.Environ = a.Environ
			return a.dockerOpts(from, to, o)
		},
	}
	// A typing mistake in a unit file should show what there is.
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w\n%s", err, c.UsageString())
	})
	flags := cmd.Flags()
	flags.StringVarP(&from, "from", "f", state.DefaultSubnetFile, "subnet file to read")
	flags.StringVarP(&to, "to", "d", "/run/docker_opts.env", "environment file to write")
	flags.BoolVarP(&o.Individual, "individual", "i", false, "write one variable per option only")
	flags.BoolVarP(&o.Combined, "combined", "c", false, "write one variable with all options only")
	flags.StringVarP(&o.Key, "key", "k", subnetenv.DefaultDockerKey, "name of the combined variable")
	flags.BoolVarP(&o.OmitIPMasq, "omit-ip-masq", "m", false, "leave --ip-masq out")
	return cmd
}

func (a *app) dockerOpts(from, to string, o subnetenv.DockerOptions) error {
	file, err := os.ReadFile(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := subnetenv.DockerOpts(file, o)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := write(to, []byte(text)); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	env, err := subnetenv.Parse(file)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return a.refuseGateway(env)
}

func (a *app) refuseGateway(env subnetenv.Env) error {
	subnet := env.Subnets.At(addr.IPv4).Masked()
	if !subnet.IsValid() {
		return nil
	}
	via, err := gatewayOf(a.RouteTable, subnet)
	if err != nil {
		return err
	}
	if via.IsValid() {
		return fmt.Errorf("this host's own subnet %s has a route via %s: "+
			"remove it (ip route del %s via %s) and try again", subnet, via, subnet, via)
	}
	return nil
}

// write replaces a regular file at once, so that Docker never starts from
// half of it, and writes into anything else that is there: replacing
// /dev/stdout would break the host.
func write(path string, data []byte) error {
	const mode = 0o644
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, data, mode)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // keep a symbolic link what it is
	}
	return renameio.WriteFile(path, data, mode, renameio.WithExistingPermissions())
}
