package upstreamoauth2

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

const (
	metadataLifetime = time.Hour        // before it is renewed, in the background
	metadataPause    = time.Minute      // after a renewal that failed
	metadataBackoff  = time.Second      // after a first fetch that failed, for all accounts
	metadataTimeout  = 10 * time.Second // of a renewal
)

// session is what a client has learned from its servers and keeps through
// reloads: the authorization server's metadata, the key its tokens are bound
// to, and the nonces that servers want in proofs.
type session struct {
	flights singleflight.Group

	mu       sync.Mutex
	metadata *tokenendpoint.Metadata
	err      error // of the first fetch, for a while
	nextTry  time.Time
	ownKey   *tokenendpoint.ProofKey

	nonces tokenendpoint.Nonces
}

// discover returns the server's metadata. Only the first call waits for it; what
// is an hour old is renewed in the background, and kept if that fails.
func (s *session) discover(ctx context.Context, fetch func(context.Context) (*tokenendpoint.Metadata, error)) (*tokenendpoint.Metadata, error) {
	s.mu.Lock()
	known, err, due := s.metadata, s.err, !time.Now().Before(s.nextTry)
	if known != nil && due {
		s.nextTry = time.Now().Add(metadataPause) // one renewal at a time
	}
	s.mu.Unlock()

	switch {
	case known == nil && err != nil && !due:
		return nil, err
	case known == nil:
		return s.learn(ctx, fetch)
	case due:
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), metadataTimeout)
			defer cancel()
			_, _ = s.learn(ctx, fetch) // until it works, what is known will do
		}()
	}
	return known, nil
}

// learn fetches the metadata, once for all who want it.
func (s *session) learn(ctx context.Context, fetch func(context.Context) (*tokenendpoint.Metadata, error)) (*tokenendpoint.Metadata, error) {
	got, err, _ := s.flights.Do("", func() (any, error) {
		metadata, err := fetch(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
		switch {
		case err == nil:
			s.metadata, s.nextTry = metadata, time.Now().Add(metadataLifetime)
		case s.metadata == nil:
			s.nextTry = time.Now().Add(metadataBackoff)
		}
		return metadata, err
	})
	if err != nil {
		return nil, err
	}
	return got.(*tokenendpoint.Metadata), nil
}

// proofKey returns the key pair made in this process, making it at first.
func (s *session) proofKey() (*tokenendpoint.ProofKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ownKey == nil {
		key, err := tokenendpoint.NewProofKey()
		if err != nil {
			return nil, fmt.Errorf("making a key for dpop: %w", err)
		}
		s.ownKey = key
	}
	return s.ownKey, nil
}
