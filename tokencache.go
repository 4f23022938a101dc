package upstreamoauth2

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// This file says who shares a token, across sites, routes and config reloads. The
// life of one token is in internal/tokencache, entry.go.

// caches holds the state that outlives a config reload: one for each set of
// resolved client settings, by their hash. It captures nothing that a config owns;
// clients lend it what makes their token requests while they live.
var caches = caddy.NewUsagePool()

// shared is what clients with the same resolved settings share.
type shared struct {
	cache  *tokencache.Cache
	server tokensource.Server
}

// openShared returns what is shared under key, and counts its user until
// closeShared.
func openShared(key string, settings tokencache.Settings) (*shared, error) {
	value, _, err := caches.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &shared{cache: tokencache.New(settings)}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*shared), nil
}

// closeShared ends the use of what is shared, which ends with its last user.
func closeShared(key string) error {
	_, err := caches.Delete(key)
	return err
}

// Destruct implements caddy.Destructor.
func (s *shared) Destruct() error {
	s.cache.Close()
	return nil
}

// sharingKey identifies what a token request is made of, and how its token is kept:
// clients with the same key share it. It leaves out of the definition what is
// resolved beside it and what only the request side reads, and has all the rest: an
// option that is forgotten here costs sharing, and never shares a wrong token.
//
// A changed secret gives another key. Key and assertion files prove the same client,
// whatever is in them; but two files are two things, even while they hold the same,
// and so are two clients with something that cannot be read yet.
func (c *client) sharingKey(s *config.Settings, unread error) string {
	written, _ := json.Marshal(c.definition)
	d := c.definition
	d.Issuer, d.TokenEndpoint, d.ClientID, d.ClientSecret = "", "", "", ""
	d.Scope, d.Audience, d.Resource, d.TokenParam, d.TokenHeader = nil, nil, nil, nil, nil
	d.Inject, d.KeepExisting, d.OnError, d.Replay, d.UpstreamBase = nil, false, "", nil, ""
	rest, _ := json.Marshal(d)

	thumbprint := ""
	if c.proofKey != nil {
		thumbprint = c.proofKey.Thumbprint()
	}
	parts := []string{
		s.Issuer, s.TokenEndpoint, s.ClientID, s.ClientSecret.Reveal(), s.FirstRefreshToken.Reveal(),
		s.Form.Encode(), url.Values(s.Header).Encode(), thumbprint, string(rest),
	}
	for _, in := range c.inputs { // a value may read like a placeholder
		parts = append(parts, "from the request", in.Option, in.Text)
	}
	parts = append(parts, config.Files(string(written))...)
	if unread != nil {
		parts = append(parts, c.name, string(written))
	}
	return hashOf(parts)
}

// processKey keeps hashes of secrets from being compared across processes, or
// found by trying.
var processKey = func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
}()

// hashOf identifies a list of strings, which may be secret. Quoting keeps apart
// lists that read alike when they are joined.
func hashOf(parts []string) string {
	hash := hmac.New(sha256.New, processKey)
	_, _ = fmt.Fprintf(hash, "%q", parts) // never fails
	return hex.EncodeToString(hash.Sum(nil))
}
