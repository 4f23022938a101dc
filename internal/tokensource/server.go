package tokensource

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

const (
	metadataLifetime = time.Hour        // before it is renewed, in the background
	metadataPause    = time.Minute      // after a renewal that failed
	metadataBackoff  = time.Second      // after a first fetch that failed, for all accounts
	metadataTimeout  = 10 * time.Second // of a renewal
)

// Server is what a client has learned from its servers and keeps through reloads:
// the authorization server's metadata, the key its tokens are bound to, and the
// nonces that servers want in proofs.
type Server struct {
	first singleflight.Group // fetches while nothing is known

	mu        sync.Mutex
	metadata  *authserver.Metadata
	err       error     // of the first fetch, for a while
	fetchedAt time.Time // when a fetch ended
	nextTry   time.Time
	ownKey    *authserver.ProofKey
	audience  audience // of the client's assertion, as the server takes it

	nonces authserver.Nonces
}

// fetchMetadata makes one metadata request.
type fetchMetadata func(context.Context) (*authserver.Metadata, error)

// discover returns the server's metadata. It waits for them until they are known;
// what is an hour old is renewed in the background, and kept if that fails.
func (s *Server) discover(ctx context.Context, timeout time.Duration, fetch fetchMetadata) (*authserver.Metadata, error) {
	known, err := s.known()
	switch {
	case known == nil && err == nil:
		return s.fetchFirst(ctx, timeout, fetch)
	case known != nil && s.takeRenewal():
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), metadataTimeout)
			defer cancel()
			_, _ = s.fetch(ctx, fetch) // until that works, what is known will do
		}()
	}
	return known, err
}

// known returns what there is to say without asking the server: nothing, at
// first, and when it is time to ask again after a first fetch that failed.
func (s *Server) known() (*authserver.Metadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.metadata == nil && !time.Now().Before(s.nextTry) {
		return nil, nil
	}
	return s.metadata, s.err
}

// fetchFirst fetches the metadata, once for all who want it. The fetch belongs to
// none of them, so that it goes on when the config of the first one is replaced.
func (s *Server) fetchFirst(ctx context.Context, timeout time.Duration, fetch fetchMetadata) (*authserver.Metadata, error) {
	metadata, err, _ := s.first.Do("", func() (any, error) {
		if known, err := s.known(); known != nil || err != nil {
			return known, err // it has come since the caller looked
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return s.fetch(ctx, fetch)
	})
	if err != nil {
		return nil, err
	}
	return metadata.(*authserver.Metadata), nil
}

// takeRenewal reports whether the metadata is to be renewed, by one caller at a
// time.
func (s *Server) takeRenewal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.nextTry) {
		return false
	}
	s.nextTry = now.Add(metadataPause)
	return true
}

// fetch fetches the metadata and takes note of how that went.
func (s *Server) fetch(ctx context.Context, fetch fetchMetadata) (*authserver.Metadata, error) {
	metadata, err := fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetchedAt = time.Now()
	switch {
	case err == nil:
		s.metadata, s.err, s.nextTry = metadata, nil, s.fetchedAt.Add(metadataLifetime)
	case s.metadata == nil:
		s.err, s.nextTry = err, s.fetchedAt.Add(metadataBackoff)
	}
	return metadata, err
}

// renewSoon brings the next renewal forward, to a minute after the last fetch: a
// request that relied on the metadata failed, so the server may have moved, or
// support us by now. Newer metadata than was used is left alone.
func (s *Server) renewSoon(used *authserver.Metadata) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if soon := s.fetchedAt.Add(metadataPause); s.metadata == used && soon.Before(s.nextTry) {
		s.nextTry = soon
	}
}

// audience is whom a server takes a client's assertion for.
type audience int

const (
	unknownAudience audience = iota
	issuerAudience
	endpointAudience
)

func (s *Server) audienceKnown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.audience != unknownAudience
}

func (s *Server) takesEndpointAudience() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.audience == endpointAudience
}

func (s *Server) learnAudience(a audience) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audience = a
}

// Nonces are what servers, the API's too, want in proofs.
func (s *Server) Nonces() *authserver.Nonces { return &s.nonces }

// ProofKey returns the key pair made in this process, making it at first.
func (s *Server) ProofKey() (*authserver.ProofKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ownKey == nil {
		key, err := authserver.NewProofKey()
		if err != nil {
			return nil, fmt.Errorf("making a key for dpop: %w", err)
		}
		s.ownKey = key
	}
	return s.ownKey, nil
}
