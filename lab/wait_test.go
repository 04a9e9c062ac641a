package lab_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flannel-ng/flannel-ng/lab"
)

func TestEventually(t *testing.T) {
	notYet, cutShort := errors.New("not yet"), errors.New("cut short")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		looks := 0
		err := lab.Eventually(ctx, func(context.Context) error {
			if looks++; looks < 3 {
				return notYet
			}
			return nil
		})
		if err != nil || looks != 3 {
			t.Errorf("after %d looks: %v", looks, err)
		}
		looks = 0
		err = lab.Eventually(ctx, func(context.Context) error { looks++; return lab.Permanent(notYet) })
		if !errors.Is(err, notYet) || looks != 1 {
			t.Errorf("a permanent error was looked at %d times: %v", looks, err)
		}
		err = lab.Eventually(ctx, func(ctx context.Context) error {
			if looks++; looks > 5 {
				<-ctx.Done()
				return cutShort
			}
			return notYet
		})
		if !errors.Is(err, notYet) || errors.Is(err, cutShort) {
			t.Errorf("the last full look is forgotten: %v", err)
		}
	})
}
