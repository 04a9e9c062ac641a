package subnetenv_test

import (
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
)

const dockerEnv = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"

func TestDockerOpts(t *testing.T) {
	const individual = "DOCKER_OPT_BIP=\"--bip=10.5.72.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n"
	const combined = "DOCKER_OPTS=\" --bip=10.5.72.1/24 --ip-masq=false --mtu=1450\"\n"
	type options = subnetenv.DockerOptions
	for name, tt := range map[string]struct {
		file string
		o    options
		want string
	}{
		"both":       {dockerEnv, options{}, individual + combined},
		"-i -c":      {dockerEnv, options{Individual: true, Combined: true}, individual + combined},
		"-i":         {dockerEnv, options{Individual: true}, individual},
		"-c":         {dockerEnv, options{Combined: true}, combined},
		"-k":         {dockerEnv, options{Combined: true, Key: "OPTS"}, strings.Replace(combined, "DOCKER_OPTS", "OPTS", 1)},
		"-m":         {dockerEnv, options{Combined: true, OmitIPMasq: true}, "DOCKER_OPTS=\" --bip=10.5.72.1/24 --mtu=1450\"\n"},
		"no file":    {"", options{}, "DOCKER_OPTS=\"\"\n"},
		"no file -i": {"", options{Individual: true}, ""},
		"held": {
			dockerEnv,
			options{Combined: true, Environ: []string{"DOCKER_OPTS=--debug"}},
			"DOCKER_OPTS=\"--debug  --bip=10.5.72.1/24 --ip-masq=false --mtu=1450\"\n",
		},
		"inherited": {
			"FLANNEL_MTU=1400\n",
			options{Environ: []string{"DOCKER_OPT_DNS=--dns=192.0.2.1", "MY_DOCKER_OPT_X=1", "DOCKER_OPT_MTU=--mtu=9"}},
			"DOCKER_OPT_DNS=\"--dns=192.0.2.1\"\nDOCKER_OPT_MTU=\"--mtu=1400\"\nDOCKER_OPTS=\" --dns=192.0.2.1 --mtu=1400\"\n",
		},
		"IPv6 only": {
			"FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00:0:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n",
			options{Combined: true},
			"DOCKER_OPTS=\" --ip-masq=true --mtu=1430\"\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := subnetenv.DockerOpts([]byte(tt.file), tt.o)
			if err != nil || got != tt.want {
				t.Errorf("got:\n%s%v\nwant:\n%s", got, err, tt.want)
			}
		})
	}
}

func TestDockerOptsErrors(t *testing.T) {
	for file, want := range map[string]string{
		"FLANNEL_IPMASQ=maybe\n": `line 1: FLANNEL_IPMASQ "maybe": must be true or false`,
		"FLANNEL_MTU=big\n":      `FLANNEL_MTU "big": must be 0..65535`,
		"FLANNEL_SUBNET=1,2\n":   "must be one IPv4 CIDR",
		"FLANNEL_SUBNET\n":       "no NAME=value",
	} {
		if _, err := subnetenv.DockerOpts([]byte(file), subnetenv.DockerOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", file, err, want)
		}
	}
}
