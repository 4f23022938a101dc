package upstreamoauth2

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"

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
	cache      *tokencache.Cache
	server     tokensource.Server
	definition *definition
}

// definitions hold what clients share, by what the config says of them rather than
// by what could be read.
var definitions = caddy.NewUsagePool()

// definition knows what its clients share, the newest last: more than one thing where
// a secret's file has changed from one reload to the next.
type definition struct {
	mu      sync.Mutex
	members []*shared
}

// Destruct implements caddy.Destructor.
func (*definition) Destruct() error { return nil }

// leave takes out what one client has shared.
func (d *definition) leave(s *shared) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.members, s); i >= 0 {
		d.members = slices.Delete(d.members, i, i+1)
	}
}

// openShared returns what is shared under the key, and counts its user until
// closeShared. If it is new, it inherits the tokens that the same client had before
// its files were read anew.
func openShared(key sharingKey, settings tokencache.Settings) (*shared, error) {
	value, known, err := caches.LoadOrNew(key.settings, func() (caddy.Destructor, error) {
		return &shared{cache: tokencache.New(settings)}, nil
	})
	if err != nil {
		return nil, err
	}
	s := value.(*shared)
	value, _, _ = definitions.LoadOrNew(key.written, func() (caddy.Destructor, error) { return new(definition), nil })
	d := value.(*definition)
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.members); !known && n > 0 {
		s.cache.Inherit(d.members[n-1].cache)
	}
	s.definition = d
	d.members = append(d.members, s)
	return s, nil
}

// closeShared ends the use of what is shared, which ends with its last user.
func closeShared(key sharingKey, s *shared) error {
	s.definition.leave(s)
	_, _ = definitions.Delete(key.written)
	_, err := caches.Delete(key.settings)
	return err
}

// Destruct implements caddy.Destructor.
func (s *shared) Destruct() error {
	s.cache.Close()
	return nil
}

// sharingKey identifies what a token request is made of, and how its token is kept:
// clients with the same one share it.
type sharingKey struct {
	settings string // all that is resolved
	written  string // the same but for what proves the client, which may be read anew
}

// sharingKey leaves out of the definition what is resolved beside it and what only
// the request side reads, and has all the rest: an option that is forgotten here
// costs sharing, and never shares a wrong token.
//
// A changed secret gives another key. Key and assertion files prove the same client,
// whatever is in them; but two files are two things, even while they hold the same,
// and so are two clients with something that cannot be read yet.
func (c *client) sharingKey(s *config.Settings, unread error) sharingKey {
	written, _ := json.Marshal(c.definition)
	d := c.definition
	d.Issuer, d.TokenEndpoint, d.ClientID, d.ClientSecret = "", "", "", nil
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
		c.definition.AuthMethod(), strconv.FormatBool(c.definition.ExpectsOtherTypes()),
	}
	for _, in := range c.inputs { // a value may read like a placeholder
		parts = append(parts, "from the request", in.Option, in.Text)
	}
	parts = append(parts, config.Files(string(written))...)
	if unread != nil {
		parts = append(parts, c.name, string(written))
	}
	if c.definition.DPoP != nil && c.proofKey == nil {
		return sharingKey{hashOf(parts), hashOf(parts)} // a key pair of its own, to which tokens are bound
	}
	return sharingKey{
		settings: hashOf(parts),
		written: hashOf([]string{
			s.Issuer, s.TokenEndpoint, s.ClientID, s.FirstRefreshToken.Reveal(), s.Form.Encode(),
			url.Values(s.Header).Encode(), thumbprint, string(written),
		}),
	}
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
