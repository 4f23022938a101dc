package upstreamoauth2

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// logs are the app's loggers, which all clients use, wherever they are defined.
type logs struct {
	logger *zap.Logger

	// sample is for what happens to single accounts: of each message and level, a few
	// a second. There is one for the app, as it takes half a megabyte.
	sample func() *zap.Logger
}

func newLogs(logger *zap.Logger) logs {
	return logs{logger, sync.OnceValue(func() *zap.Logger {
		return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(core, time.Second, 3, 0)
		}))
	})}
}

// Report implements tokencache.Source: it logs how a token request went, so that a
// person can act on it, and emits an event for programs.
func (c *client) Report(o tokencache.Outcome) {
	defer c.emitOutcome(o)
	logger := c.logger
	if o.Account != "" {
		logger = c.accountLogger.With(zap.String("account", o.Account))
	}
	if o.Err == nil {
		reportToken(logger, o)
		return
	}

	level, message := zap.ErrorLevel, "token request failed; requests are answered without going upstream"
	if _, missing := errors.AsType[*tokensource.GrantError](o.Err); missing && o.Failures > 1 {
		level = zap.DebugLevel // it has been told, and is looked for every few seconds
	}
	fields := append(failureFields(o.Err),
		zap.Int("failures", o.Failures),
		zap.Duration("next_attempt_in", o.RetryIn.Round(time.Millisecond)))
	if o.LifeLeft > 0 {
		level, message = zap.WarnLevel, "token request failed; the token in hand is still served"
		fields = append(fields, zap.Duration("expires_in", o.LifeLeft.Round(time.Millisecond)))
	}
	if c.FaultOf(o.Err) != tokensource.NotTheCallers {
		level = zap.InfoLevel // callers must not be able to raise an alarm
	}
	logger.Log(level, message, fields...)
}

// reportToken logs that a token was obtained: at info if there was none before, as
// that is what an operator waits for.
func reportToken(logger *zap.Logger, o tokencache.Outcome) {
	level, message := zap.DebugLevel, "token renewed"
	switch {
	case o.First && o.Account != "":
		message = "first token obtained"
	case o.First:
		level, message = zap.InfoLevel, "first token obtained"
	case o.Failures > 0:
		level, message = zap.InfoLevel, "token obtained again"
	}
	logger.Log(level, message,
		zap.Duration("expires_in", o.LifeLeft.Round(time.Millisecond)),
		zap.Duration("renew_in", o.RenewIn.Round(time.Millisecond)))
}

// failureFields are an error and what it tells of the server's answer.
func failureFields(err error) []zap.Field {
	fields := []zap.Field{zap.Error(err)}
	failed, ok := errors.AsType[*authserver.Error](err)
	if !ok {
		return fields
	}
	if failed.Code != "" {
		fields = append(fields, zap.String("oauth_error", failed.Code))
	}
	if failed.URL != "" {
		fields = append(fields, zap.String("url", failed.URL))
	}
	if failed.Status != 0 {
		fields = append(fields, zap.Int("status", failed.Status))
	}
	return fields
}

// Interface guards
var _ tokencache.Source = (*client)(nil)
