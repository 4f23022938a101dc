package upstreamoauth2

import (
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/upstream"
)

// freshlyIssued is the age up to which a rejected token tells of a mistake: one
// that has been good for a while was more likely revoked, and is replaced.
const freshlyIssued = time.Minute

// apiRejected is told of each request whose token the API rejects. It counts them, and
// logs, once for each token, that a fresh one is rejected: another will hardly help.
func (c *client) apiRejected(r upstream.Rejection) {
	c.counters.replays[string(r.Outcome)].Add(1)
	switch {
	case r.Outcome == upstream.RejectedAgain:
	case r.Outcome == upstream.NotReplayed && time.Since(r.Token.RequestedAt) < freshlyIssued:
	default:
		return
	}
	if c.warned.Swap(r.Token) == r.Token {
		return
	}
	logger := c.logger
	if c.accountLogger != nil {
		logger = c.accountLogger
	}
	fields := []zap.Field{zap.Int("status", r.Status)}
	if r.Error != "" {
		fields = append(fields, zap.String("error", r.Error))
	}
	logger.Warn("the API rejects a fresh access token: check whether 'audience', 'resource' and 'scope' are what the API asks for, and whether 'issuer' or 'token_endpoint' is the server that it trusts", fields...)
}

// tokenOverwritten is told of requests that passed two handlers which put a token
// in the same place.
func (c *client) tokenOverwritten() {
	c.overwrote.Do(func() {
		c.logger.Warn("two upstream_oauth2 directives put a token on the same request, and the last one wins: both cost token requests; use matchers or handle blocks to keep them apart")
	})
}
