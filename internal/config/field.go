package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
)

// field is one key of an options struct.
type field struct {
	key    string
	preset string // the default tag
	lo, hi string // the range tag, or what the type holds
	open   bool   // the range says nothing that a reader wants to know
	doc    string
	value  reflect.Value
}

// fieldsOf reads the tags of a struct. options is a struct or a pointer to
// one; only with a pointer can the fields be set.
func fieldsOf(options any) []field {
	v := reflect.Indirect(reflect.ValueOf(options))
	var out []field
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		f := field{
			key:    sf.Name,
			preset: sf.Tag.Get("default"),
			doc:    sf.Tag.Get("doc"),
			value:  v.Field(i),
		}
		if name, _, _ := strings.Cut(sf.Tag.Get("json"), ","); name != "" {
			f.key = name
		}
		f.lo, f.hi = bounds(sf)
		f.open = sf.Tag.Get("range") == "" && sf.Type.Size() == 8
		out = append(out, f)
	}
	return out
}

// bounds are the smallest and the largest number that a field takes.
func bounds(sf reflect.StructField) (lo, hi string) {
	if text := sf.Tag.Get("range"); text != "" {
		lo, hi, ok := strings.Cut(text, "..")
		if !ok {
			panic(fmt.Sprintf("config: field %s: range %q is not lo..hi", sf.Name, text))
		}
		return lo, hi
	}
	t := sf.Type
	switch {
	case isSigned(t.Kind()):
		most := int64(1)<<(t.Bits()-1) - 1
		return strconv.FormatInt(-most-1, 10), strconv.FormatInt(most, 10)
	case isUnsigned(t.Kind()):
		return "0", strconv.FormatUint(^uint64(0)>>(64-t.Bits()), 10)
	default:
		return "", ""
	}
}

func isSigned(k reflect.Kind) bool   { return k >= reflect.Int && k <= reflect.Int64 }
func isUnsigned(k reflect.Kind) bool { return k >= reflect.Uint && k <= reflect.Uint64 }

// isDecision says whether t is a *bool: true, false, or nothing said.
func isDecision(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Bool
}

// reset gives the field its default.
func (f field) reset() {
	f.value.SetZero()
	if f.preset == "" {
		return
	}
	raw := f.preset
	if f.value.Kind() == reflect.String || f.value.Kind() == reflect.Struct {
		raw = strconv.Quote(raw)
	}
	if rule := f.set(json.RawMessage(raw)); rule != "" {
		panic(fmt.Sprintf("config: field %s: default %q: %s", f.key, f.preset, rule))
	}
}

// set stores a JSON value. It returns the rule that the value breaks, or "".
func (f field) set(raw json.RawMessage) (rule string) {
	switch into := f.value.Addr().Interface().(type) {
	case *json.RawMessage:
		*into = append(json.RawMessage(nil), raw...)
		return ""
	case *netip.Prefix:
		return setValid(raw, into, `must be a CIDR in quotes, such as "10.5.0.0/16" or "fc00::/48"`)
	case *netip.Addr:
		return setValid(raw, into, `must be an IP address in quotes, such as "10.5.1.0" or "fc00::"`)
	}
	kind := f.value.Kind()
	switch {
	case kind == reflect.Bool, isDecision(f.value.Type()):
		return setText(raw, f.value.Addr().Interface(), "must be true or false, without quotes")
	case kind == reflect.String:
		return setText(raw, f.value.Addr().Interface(), "must be a string in quotes")
	case isSigned(kind), isUnsigned(kind):
		return f.setNumber(raw)
	default:
		panic(fmt.Sprintf("config: field %s: a %s cannot be an option", f.key, f.value.Type()))
	}
}

func setText(raw json.RawMessage, into any, rule string) string {
	if err := json.Unmarshal(raw, into); err != nil {
		return rule
	}
	return ""
}

// setValid refuses "" too, which netip takes for the zero value.
func setValid(raw json.RawMessage, into interface{ IsValid() bool }, rule string) string {
	if broken := setText(raw, into, rule); broken != "" || into.IsValid() {
		return broken
	}
	return rule
}

func (f field) setNumber(raw json.RawMessage) (rule string) {
	rule = "must be " + f.lo + ".." + f.hi
	if f.open {
		rule = "must be a whole number"
	}
	text := string(raw)
	if strings.HasPrefix(text, `"`) {
		return rule + ", without quotes"
	}
	if strings.Trim(text, "-0123456789") != "" {
		return rule
	}
	if isUnsigned(f.value.Kind()) {
		n, ok := inRange(f, text, parseUint)
		if !ok {
			return rule
		}
		f.value.SetUint(n)
		return ""
	}
	n, ok := inRange(f, text, parseInt)
	if !ok {
		return rule
	}
	f.value.SetInt(n)
	return ""
}

// inRange parses text and both bounds with the same function, so that a bound
// is as wide as the type.
func inRange[T int64 | uint64](f field, text string, parse func(string) (T, error)) (n T, ok bool) {
	lo, errLo := parse(f.lo)
	hi, errHi := parse(f.hi)
	if errLo != nil || errHi != nil {
		panic(fmt.Sprintf("config: field %s: range %s..%s is not made of numbers", f.key, f.lo, f.hi))
	}
	n, err := parse(text)
	return n, err == nil && n >= lo && n <= hi
}

func parseInt(s string) (int64, error)   { return strconv.ParseInt(s, 10, 64) }
func parseUint(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
