package embedded

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// sayAgain is how often etcd's same message is passed on: it repeats itself
// for as long as a peer is away.
const sayAgain = time.Minute

// byDesign tells the warnings of every start here from others. They say nothing
// to an operator: one port serves clients in every cluster of ours, tokens are
// for etcd's own users, and new data has no schema version yet.
func byDesign(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.",
		"simple token is not cryptographically signed",
		"Failed to detect schema version":
		return true
	default:
		return false
	}
}

// ownEnd says whether an error is only that a server of ours was closed: every
// stop has some.
func ownEnd(err any) bool {
	text, _ := err.(string)
	return strings.HasSuffix(strings.ToLower(text), "server closed") || strings.HasSuffix(text, net.ErrClosed.Error())
}

// bridge is the zap core through which etcd's warnings and errors reach slog.
type bridge struct {
	zapcore.LevelEnabler
	log    *slog.Logger
	fields []zapcore.Field
}

// newLogger makes etcd's logger. What etcd finds fatal ends in died, with the
// goroutine that said so, instead of ending the whole process.
func newLogger(log *slog.Logger, died func(message string)) *zap.Logger {
	core := zapcore.NewSamplerWithOptions(&bridge{LevelEnabler: zapcore.WarnLevel, log: log}, sayAgain, 1, 0)
	end := fatalHook(died)
	return zap.New(core, zap.WithFatalHook(end), zap.WithPanicHook(end))
}

// With implements zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{LevelEnabler: b.LevelEnabler, log: b.log, fields: slices.Concat(b.fields, fields)}
}

// Check implements zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write implements zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	attrs := []slog.Attr{slog.String("text", e.Message)}
	closed := false
	for _, f := range slices.Concat(b.fields, fields) {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
			closed = closed || f.Key == "error" && ownEnd(v)
		}
	}
	// etcd's errors are no errors of ours: the fabric goes on without it.
	level := slog.LevelWarn
	if closed || byDesign(e.Message) {
		level = slog.LevelDebug
	}
	b.log.LogAttrs(context.Background(), level, "embedded etcd", attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }

type fatalHook func(message string)

// OnWrite implements zapcore.CheckWriteHook.
func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, _ []zapcore.Field) {
	h(e.Message)
	runtime.Goexit()
}
