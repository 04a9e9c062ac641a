package cleanup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/identity"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// running are the files that flanneld makes where the subnet file is. The lock
// is the last one: until it goes no other flanneld starts.
func (c *cleaner) running() []string {
	return []string{
		c.o.SubnetFile, c.o.ControlSocket, state.TunnelSocket(c.o.SubnetFile), identity.LockOf(c.o.SubnetFile),
	}
}

// lasting are those that outlive a reboot.
func (c *cleaner) lasting() []string {
	return []string{
		c.picture(), filepath.Join(c.o.StateDir, identity.HostIDFile), filepath.Join(c.o.StateDir, identity.LockFile),
	}
}

// present are the files to remove, in order.
func (c *cleaner) present() []string {
	var want []string
	if !c.o.KeepState {
		want = c.lasting()
	}
	want = append(want, c.running()...)
	var out []string
	for _, f := range want {
		out = append(out, unfinished(f)...)
		if exists(f) {
			out = append(out, f)
		}
	}
	return out
}

// unfinished are the temporary files that a crash left while f was written.
func unfinished(f string) []string {
	dir, name := filepath.Split(f)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "."+name)
		if ok && number != "" && strings.Trim(number, "0123456789") == "" {
			out = append(out, dir+e.Name())
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// files removes them. After a failure the identity and the picture stay: another
// run can tell by them what is this flanneld's.
func (c *cleaner) files() {
	if !c.o.KeepState && (c.keepID || c.report.Failed > 0) {
		c.o.KeepState = true
		c.say(Left, c.o.StateDir, "another cleanup will need it")
	}
	for _, f := range c.present() {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.failed("file "+f, bare(err))
			continue
		}
		c.say(Removed, "file "+f, "")
	}
	c.strangers()
}

// bare is the error without the path, which the line has.
func bare(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// strangers names what is no business of a cleanup and would be missed.
func (c *cleaner) strangers() {
	if journal := state.HookJournal(c.o.SubnetFile); exists(journal) && !c.o.AllowExtension {
		c.say(Left, "what commands of the extension backend made (in "+journal+")", "they run with --allow-extension only")
	}
	if c.o.KeepState {
		return
	}
	entries, err := os.ReadDir(c.o.StateDir)
	if err != nil {
		return
	}
	mine := c.lasting()
	for _, e := range entries {
		path := filepath.Join(c.o.StateDir, e.Name())
		switch {
		case slices.Contains(mine, path), strings.HasPrefix(e.Name(), "."):
		case e.IsDir() && exists(filepath.Join(path, "member")):
			c.say(Left, path, "the data of a member of the store: take it out with flannelctl store remove-member, and then remove it by hand")
		default:
			c.say(Left, path, "not made by this version of flanneld")
		}
	}
}

// volatile and lasting directories of the system: what we made is below them.
func roots() []string { return []string{"/run", "/var/lib"} }

// directories removes those that are empty now: the state directory, and below
// the system's directories also those above our files.
func (c *cleaner) directories() {
	dirs := []string{filepath.Dir(c.o.SubnetFile), filepath.Dir(c.o.ControlSocket), filepath.Dir(state.SwitchRecord(c.o.SubnetFile))}
	if !c.o.KeepState {
		_ = os.Remove(c.o.StateDir)
		dirs = append(dirs, filepath.Dir(c.o.StateDir))
	}
	for _, d := range dirs {
		for below(d) && os.Remove(d) == nil {
			d = filepath.Dir(d)
		}
	}
}

// below says whether dir is deeper than a directory of the system.
func below(dir string) bool {
	return slices.ContainsFunc(roots(), func(r string) bool { return strings.HasPrefix(dir, r+"/") })
}
