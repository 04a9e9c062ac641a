package state_test

import (
	"reflect"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Whatever a Set can hold is walked, appended and added, each at its place: a
// kind that was forgotten in one of them would silently never be made.
func TestEveryKindOfObject(t *testing.T) {
	var all state.Set
	v := reflect.ValueOf(&all).Elem()
	kinds := 0
	for _, field := range v.Fields() {
		if field.Kind() == reflect.Slice {
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
			kinds++
		}
	}
	var added, appended state.Set
	n := 0
	for o := range all.Objects() {
		n++
		if !added.Add(o) {
			t.Errorf("%T is not added", o)
		}
	}
	appended.Append(all)
	if n != kinds {
		t.Errorf("%d kinds of %d are walked", n, kinds)
	}
	if !reflect.DeepEqual(added, all) || !reflect.DeepEqual(appended, all) {
		t.Errorf("%+v\nadded    %+v\nappended %+v", all, added, appended)
	}
}
