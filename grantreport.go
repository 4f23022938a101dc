package upstreamoauth2

import (
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// reportGrant logs, and emits as events, what happens to grants. No token shows: the beginning of a digest
// tells one generation from another.
func (a *App) reportGrant(o vault.Outcome) {
	if a == nil || o.Event == vault.Operated {
		return
	}
	emitGrant(o)
	logger := a.logs.logger.With(zap.String("client", o.Label.Client))
	if o.Label.Account != "" {
		logger = a.logs.sample().With(zap.String("client", o.Label.Client), zap.String("account", short(string(o.Grant))))
	}
	fields := []zap.Field{zap.Uint64("generation", o.Generation), zap.String("refresh_token", o.Digest)}
	if o.Err != nil {
		fields = append(fields, zap.Error(o.Err))
	}
	switch o.Event {
	case vault.Adopted:
		logger.Debug("grant adopted, as another process has refreshed it", fields...)
	case vault.Spent:
		logger.Debug("refresh token is spent", append(fields, zap.String("attempt", o.Attempt))...)
	case vault.Retried:
		logger.Warn("no answer came to the refresh token; it is sent once more", fields...)
	case vault.PossiblySpent:
		logger.Warn("the refresh token may have been spent before, and the answer lost; it is sent all the same", fields...)
	case vault.Stored:
		if o.Since.IsZero() {
			logger.Debug("grant stored", fields...)
		} else {
			logger.Info("grant stored after all", append(fields, zap.Time("failed_since", o.Since.Round(time.Second)))...)
		}
	case vault.StoreFailing:
		logger.Error("the newest refresh token cannot be stored, and is in memory alone; it is stored again and again: check the storage before this process ends", append(fields, zap.Time("since", o.Since.Round(time.Second)))...)
	case vault.SignInNeeded:
		logger.Error("the grant is dead: somebody has to sign in again", fields...)
	case vault.KeyProblem:
		logger.Error("what is kept cannot be opened; nothing is overwritten, and requests are answered with 503", fields...)
	}
}

// short is as much of an account's hash as tells it from others in a log.
func short(hash string) string { return hash[:min(8, len(hash))] }
