package lease_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/lease"
)

func TestFormatExtra(t *testing.T) {
	for text, want := range map[string]string{
		``: ``, `null`: ``, " null\n": ``, `{"udp": {"bpf": 1}}`: `{"udp":{"bpf":1}}`, ` 1 `: `1`, `"<"`: `"\u003c"`,
	} {
		if got, err := lease.FormatExtra(text); err != nil || got != want {
			t.Errorf("%q became %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{`{`, ` `, `{} {}`, `"` + strings.Repeat("<", lease.MaxExtra/6+1) + `"`} {
		if got, err := lease.FormatExtra(text); !errors.Is(err, lease.ErrExtra) {
			t.Errorf("%.20q became %.20q, %v", text, got, err)
		}
	}
}

func FuzzFormatExtra(f *testing.F) {
	f.Add(`{"udp":{"bpf":1}}`)
	f.Add(`[1, "<&>", null]`)
	f.Add("\"\u2028\"")
	f.Fuzz(func(t *testing.T, text string) {
		kept, err := lease.FormatExtra(text)
		if err != nil {
			return
		}
		if again, err := lease.FormatExtra(kept); err != nil || again != kept || len(kept) > lease.MaxExtra {
			t.Errorf("%q became %q, then %q, %v", text, kept, again, err)
		}
	})
}
