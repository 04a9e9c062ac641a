package bpf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// ErrNone says that there is nothing in the directory.
var ErrNone = errors.New("no fast path")

// Path is what is pinned in one directory: three maps, and as far as they are
// there, the programs of this build and their attachments. It serves one
// goroutine at a time.
//
//	fl_settings, fl_peers, fl_counters   maps
//	fl_out-<version>, …                  programs
//	link-fl_out, …                       attachments
type Path struct {
	dir      string
	settings *ebpf.Map
	peers    *ebpf.Map
	counters *ebpf.Map
	programs map[Hook]*ebpf.Program // of this version
}

// Version tells builds of the programs from one another: a digest of the object.
func Version() string {
	sum := sha256.Sum256(_FastpathBytes)
	return hex.EncodeToString(sum[:6])
}

// Open opens what is in dir and makes nothing; ErrNone if the maps are not all
// there or not those of this build.
func Open(dir string) (*Path, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: directory %s", ErrNone, dir)
	}
	spec, err := loadFastpath()
	if err != nil {
		return nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	p := &Path{dir: dir, programs: map[Hook]*ebpf.Program{}}
	for name, m := range p.maps() {
		if *m, err = openMap(filepath.Join(dir, name), spec.Maps[name]); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	for _, h := range Hooks() {
		prog, err := ebpf.LoadPinnedProgram(p.pinOf(h), nil)
		switch {
		case err == nil:
			p.programs[h] = prog
		case !errors.Is(err, fs.ErrNotExist):
			return nil, errors.Join(fmt.Errorf("open program %s: %w", p.pinOf(h), err), p.Close())
		}
	}
	return p, nil
}

func (p *Path) maps() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		fastpathMapFlSettings: &p.settings, fastpathMapFlPeers: &p.peers, fastpathMapFlCounters: &p.counters,
	}
}

// openMap opens a pin; a map of another build that has another shape is as good
// as none.
func openMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: map %s: %w", ErrNone, path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", path, err)
	}
	if err := spec.Compatible(m); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: map %s: %w", ErrNone, path, err), m.Close())
	}
	return m, nil
}

func (p *Path) pinOf(h Hook) string { return filepath.Join(p.dir, string(h)+"-"+Version()) }

// Load is Open, and makes what is missing: the directory, maps, and the
// programs of this build, which get the maps that are there. Nothing is
// attached or detached.
func Load(dir string) (*Path, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of pins: %w", err)
	}
	p, err := Open(dir)
	if err == nil && len(p.programs) == len(Hooks()) {
		return p, nil
	}
	if err == nil {
		err = p.Close()
	}
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	if err := load(dir); err != nil {
		return nil, err
	}
	return Open(dir)
}

// load makes maps and programs and pins them.
func load(dir string) error {
	spec, err := loadFastpath()
	if err != nil {
		return fmt.Errorf("read the compiled programs: %w", err)
	}
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinByName
		if have, err := openMap(filepath.Join(dir, name), m); err == nil {
			_ = have.Close() // only looked at
		} else if err := unpin(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}})
	if err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	defer c.Close()
	p := Path{dir: dir}
	for _, h := range Hooks() {
		pin := p.pinOf(h)
		if err := errors.Join(unpin(pin), c.Programs[string(h)].Pin(pin)); err != nil {
			return fmt.Errorf("pin program %s: %w", pin, err)
		}
	}
	return nil
}

// Try loads the programs and lets them go: what the kernel's verifier, an old
// kernel or missing rights object to is the error.
func Try() error {
	var objects fastpathObjects
	if err := loadFastpathObjects(&objects, nil); err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	return objects.Close()
}

// Forget removes the programs of other builds. They stay attached where they
// are.
func (p *Path) Forget() error {
	names, err := p.others()
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, unpin(filepath.Join(p.dir, name)))
	}
	return errors.Join(errs...)
}

// Stale says whether there is something of another build.
func (p *Path) Stale() (bool, error) {
	names, err := p.others()
	return len(names) > 0, err
}

func (p *Path) others() ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var out []string
	for _, e := range entries {
		hook, version, isProgram := strings.Cut(e.Name(), "-")
		if isProgram && hook != linkPrefix && version != Version() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Close lets go of the pins. What they stand for stays.
func (p *Path) Close() error {
	var errs []error
	for _, m := range p.maps() {
		errs = append(errs, (*m).Close()) // works on nil
	}
	for _, prog := range p.programs {
		errs = append(errs, prog.Close())
	}
	return errors.Join(errs...)
}

// Remove detaches and removes everything in dir. Attachments go first, those
// of what is sent before those of what is received.
func Remove(dir string) error {
	var errs []error
	for _, h := range Hooks() {
		errs = append(errs, unpin(linkPin(dir, h)))
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs = append(errs, err)
	for _, e := range entries {
		errs = append(errs, unpin(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return os.Remove(dir)
}

func unpin(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
