package main

import (
	"log/slog"
	"os"

	"github.com/flannel-ng/flannel-ng/internal/options"
)

// logger writes to standard error, as flannel does.
func logger(o options.Options) *slog.Logger {
	h := &slog.HandlerOptions{Level: o.LogLevel}
	if o.LogFormat == options.FormatJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, h))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, h))
}
