package lab_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
)

// carry FILE FROM HOSTS…: copies a file of a host to others, as an operator
// does with a snapshot.
func carry(_ context.Context, s *stage, c call) error {
	if len(c.args) < 3 {
		return errUsage
	}
	from, err := s.fabric.Host(c.arg(1))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from.Path(c.arg(0)))
	if err != nil {
		return err
	}
	return s.each(c.args[2:], func(h *lab.Host) error { return os.WriteFile(h.Path(c.arg(0)), text, 0o600) })
}

// expire HOSTS…: their leases end, as after a day without a renewal.
func expire(ctx context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { return s.fabric.Etcd.Expire(ctx, h) })
}

// store kill | freeze | thaw | revive | wipe | save | restore | compact | delay
// TIME: what happens to etcd in its life.
func store(ctx context.Context, s *stage, c call) error {
	e := s.fabric.Etcd
	switch c.arg(0) {
	case "kill":
		return e.Kill(ctx)
	case "freeze":
		return e.Freeze()
	case "thaw":
		return e.Thaw()
	case "revive":
		return e.Revive(ctx)
	case "wipe":
		return e.Wipe()
	case "save":
		return e.Save(ctx)
	case "restore":
		return e.Restore(ctx)
	case "compact":
		return e.Compact(ctx)
	case "delay":
		return delay(e.Relay, c.arg(1))
	default:
		return errUsage
	}
}

func delay(r *lab.Relay, text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || r == nil {
		return errUsage
	}
	r.Delay(d)
	return nil
}

// certify authority | certify etcd LIFE | certify HOSTS… LIFE: another signer of
// certificates; a new certificate, which may have ended (LIFE is negative).
func certify(_ context.Context, s *stage, c call) error {
	if c.arg(0) == "authority" {
		return s.fabric.NewAuthority()
	}
	if len(c.args) < 2 {
		return errUsage
	}
	life, err := time.ParseDuration(c.args[len(c.args)-1])
	if err != nil {
		return errUsage
	}
	if c.arg(0) == "etcd" {
		return s.fabric.Certify(s.fabric.Etcd.Node, life)
	}
	return s.each(c.args[:len(c.args)-1], func(h *lab.Host) error { return s.fabric.Certify(h.Node, life) })
}

// reboot HOSTS…: what a kernel holds is gone; files on disk stay.
func reboot(ctx context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { return h.Reboot(ctx) })
}

// quiet begin HOSTS… | quiet end HOSTS… LINES CPU: since begin no daemon has
// written more lines into its log, nor used more processor time.
func quiet(_ context.Context, s *stage, c call) error {
	if c.arg(0) == "begin" {
		return s.each(c.args[1:], func(h *lab.Host) error {
			u, err := h.Usage()
			s.mu.Lock()
			defer s.mu.Unlock()
			s.usage[h.Name] = u
			return err
		})
	}
	if c.arg(0) != "end" || len(c.args) < 4 {
		return errUsage
	}
	last := len(c.args) - 1
	lines, err1 := strconv.Atoi(c.args[last-1])
	most, err2 := time.ParseDuration(c.args[last])
	if err1 != nil || err2 != nil {
		return errUsage
	}
	return s.each(c.args[1:last-1], func(h *lab.Host) error {
		u, err := h.Usage()
		if err != nil {
			return err
		}
		s.mu.Lock()
		before := s.usage[h.Name]
		s.mu.Unlock()
		c.ts.Logf("%s: %d lines, %s of CPU", h.Name, u.Lines-before.Lines, u.CPU-before.CPU)
		if u.Lines-before.Lines > lines || u.CPU-before.CPU > most {
			text := strings.Split(h.Log(), "\n")
			return fmt.Errorf("%s wrote %d lines and used %s; allowed are %d and %s:\n%s", h.Name,
				u.Lines-before.Lines, u.CPU-before.CPU, lines, most, strings.Join(text[before.Lines:], "\n"))
		}
		return nil
	})
}
