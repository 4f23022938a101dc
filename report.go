package upstreamoauth2

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// report implements fetcher: it logs how a token request went, so that a
// person can act on it.
func (c *client) report(o outcome) {
	logger := c.logger
	if o.account != "" {
		logger = c.accountLogger.With(zap.String("account", o.account))
	}
	if o.err == nil {
		level, message := zap.DebugLevel, "token renewed"
		switch {
		case o.first && o.account != "":
			message = "first token obtained"
		case o.first:
			level, message = zap.InfoLevel, "first token obtained"
		case o.failures > 0:
			level, message = zap.InfoLevel, "token obtained again"
		}
		logger.Log(level, message,
			zap.Duration("expires_in", o.lifeLeft.Round(time.Millisecond)),
			zap.Duration("renew_in", o.renewIn.Round(time.Millisecond)))
		return
	}

	message := "token request failed; requests are answered without going upstream"
	fields := []zap.Field{
		zap.Error(o.err),
		zap.String("oauth_error", oauthError(o.err)),
		zap.Int("failures", o.failures),
		zap.Duration("next_attempt_in", o.retryIn.Round(time.Millisecond)),
	}
	if o.lifeLeft > 0 {
		message = "token request failed; the token in hand is still served"
		fields = append(fields, zap.Duration("expires_in", o.lifeLeft.Round(time.Millisecond)))
	}
	level := zap.ErrorLevel
	if c.FaultOf(o.err) != tokensource.NotTheCallers {
		level = zap.InfoLevel // callers must not be able to raise an alarm
	}
	logger.Log(level, message, fields...)
}

// oauthError returns the OAuth error code of a failed token request, if any.
func oauthError(err error) string {
	if e, ok := errors.AsType[*authserver.Error](err); ok {
		return e.Code
	}
	return ""
}

// Interface guards
var _ fetcher = (*client)(nil)
