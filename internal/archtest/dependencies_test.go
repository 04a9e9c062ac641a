package archtest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A new module needs a line in docs/dependencies.md: why, what else, licence.
func TestEveryModuleHasItsReason(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f",
		"{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	if len(modules) < 5 {
		t.Fatalf("go list -m names only %q", modules)
	}
	for _, m := range modules {
		if !strings.Contains(string(doc), "| "+m) && !strings.Contains(string(doc), ", "+m) {
			t.Errorf("module %s has no line in docs/dependencies.md", m)
		}
	}
}
