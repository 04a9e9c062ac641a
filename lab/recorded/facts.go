package recorded

import (
	"fmt"
	"io/fs"
	"path"
)

// Case is one recorded network config with what flannel made of it.
type Case struct {
	Name    string // its directory
	NetConf string // as put into etcd
	Facts   Facts
}

// Facts are what one run on two hosts left, as text of the recorder's tools.
type Facts struct {
	Etcd    string // keys and values below the prefix, a line each
	Packets string // of two pings on host 2's uplink, by `tcpdump -n -t -xx`
	Hosts   [2]HostFacts
}

// HostFacts are what a run left on one host.
type HostFacts struct {
	SubnetEnv string
	Kernel    string // "$ command", its output, an empty line; and so on
}

// Load reads the table of differences and every case, sorted by name.
func Load(fsys fs.FS) (Table, []Case, error) {
	text, err := fs.ReadFile(fsys, "differences.txt")
	if err != nil {
		return Table{}, nil, fmt.Errorf("recordings: %w", err)
	}
	table, err := ParseTable(string(text))
	if err != nil {
		return table, nil, fmt.Errorf("recordings: %w", err)
	}
	cases, err := loadCases(fsys)
	return table, cases, err
}

func loadCases(fsys fs.FS) ([]Case, error) {
	dirs, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("recordings: %w", err)
	}
	var cases []Case
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		c, err := loadCase(fsys, d.Name())
		if err != nil {
			return nil, fmt.Errorf("recording %s: %w", d.Name(), err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func loadCase(fsys fs.FS, name string) (Case, error) {
	c := Case{Name: name}
	for file, to := range map[string]*string{
		"net-conf.json": &c.NetConf,
		"etcd.txt":      &c.Facts.Etcd,
		"packets.txt":   &c.Facts.Packets,
		"h1.subnet.env": &c.Facts.Hosts[0].SubnetEnv,
		"h1.kernel.txt": &c.Facts.Hosts[0].Kernel,
		"h2.subnet.env": &c.Facts.Hosts[1].SubnetEnv,
		"h2.kernel.txt": &c.Facts.Hosts[1].Kernel,
	} {
		text, err := fs.ReadFile(fsys, path.Join(name, file))
		if err != nil {
			return c, err
		}
		*to = string(text)
	}
	return c, nil
}
