package recorded_test

import (
	"os"
	"testing"

	"github.com/flannel-ng/flannel-ng/lab/recorded"
)

const testdata = "../testdata/recorded"

func load(t *testing.T) (recorded.Table, []recorded.Case) {
	t.Helper()
	cases, err := recorded.Load(os.DirFS(testdata))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(testdata + "/differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	table, err := recorded.ParseTable(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return table, cases
}
