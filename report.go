package upstreamoauth2

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// Report implements tokencache.Source: it logs how a token request went, so that a
// person can act on it.
func (c *client) Report(o tokencache.Outcome) {
	logger := c.logger
	if o.Account != "" {
		logger = c.accountLogger.With(zap.String("account", o.Account))
	}
	if o.Err == nil {
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
		return
	}

	message := "token request failed; requests are answered without going upstream"
	fields := []zap.Field{
		zap.Error(o.Err),
		zap.String("oauth_error", oauthError(o.Err)),
		zap.Int("failures", o.Failures),
		zap.Duration("next_attempt_in", o.RetryIn.Round(time.Millisecond)),
	}
	if o.LifeLeft > 0 {
		message = "token request failed; the token in hand is still served"
		fields = append(fields, zap.Duration("expires_in", o.LifeLeft.Round(time.Millisecond)))
	}
	level := zap.ErrorLevel
	if c.FaultOf(o.Err) != tokensource.NotTheCallers {
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
var _ tokencache.Source = (*client)(nil)
