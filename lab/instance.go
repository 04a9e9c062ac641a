package lab

import (
	"fmt"
	"strings"
)

// Instance is another flanneld on the same machine, for a network of its own:
// with its own subnet file, log, health port and etcd prefix. It is named by a
// letter from b on and called h1:b. Its network config is the caller's to write.
func (h *Host) Instance(letter string) (*Host, error) {
	if len(letter) != 1 || letter < "b" || letter > "z" {
		return nil, fmt.Errorf("instance %q of %s: want a letter from b on", letter, h.Name)
	}
	for _, i := range h.instances {
		if i.instance == letter {
			return i, nil
		}
	}
	node := *h.Node // the same machine under another name
	node.Name += ":" + letter
	i := &Host{Node: &node, Index: h.Index, fabric: h.fabric, base: h, instance: letter}
	h.instances = append(h.instances, i)
	return i, nil
}

// hostAndInstance splits "h1:b".
func hostAndInstance(name string) (host, letter string) {
	host, letter, _ = strings.Cut(name, ":")
	return host, letter
}

// suffix tells the files of an instance from those of the first one.
func (h *Host) suffix() string {
	if h.instance == "" {
		return ""
	}
	return "-" + h.instance
}

// SubnetFile is the default path, that of a host's first daemon.
const SubnetFile = "/run/flannel/subnet.env"

// SubnetFile is the path of the daemon's subnet file inside the host.
func (h *Host) SubnetFile() string {
	return strings.Replace(SubnetFile, "/flannel/", "/flannel"+h.suffix()+"/", 1)
}

// LogFile is where the lab writes what the daemon says, inside the host.
func (h *Host) LogFile() string { return "/run/flanneld" + h.suffix() + ".log" }

func (h *Host) controlSocket() string { return "/run/flannel" + h.suffix() + "/subnet.sock" }

func (h *Host) notifySocket() string { return "/run/notify" + h.suffix() + ".sock" }

func (h *Host) bridge() string { return "cni0" + h.suffix() }

// healthPort is 8081 for the first daemon, 8082 for b.
func (h *Host) healthPort() int {
	if h.instance == "" {
		return 8081
	}
	return 8081 + int(h.instance[0]-'a')
}

// Prefix is the daemon's etcd prefix: flannel's default, or /b/network.
func (h *Host) Prefix() string {
	if h.instance == "" {
		return Prefix
	}
	return "/" + h.instance + "/network"
}
