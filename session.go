package upstreamoauth2

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

// session is what a client has learned from its servers and keeps through
// reloads: the authorization server's metadata, the key its tokens are bound
// to, and the nonces that servers want in proofs.
type session struct {
	flights singleflight.Group // of first fetches

	mu       sync.Mutex
	metadata *authserver.Metadata
	err      error     // of the first fetch, for a while
	asked    time.Time // when a fetch ended
	nextTry  time.Time
	ownKey   *authserver.ProofKey

	nonces authserver.Nonces
}

// fetchMetadata makes one metadata request.
type fetchMetadata func(context.Context) (*authserver.Metadata, error)

// discover returns the server's metadata. It waits for them until they are known;
// what is an hour old is renewed in the background, and kept if that fails.
func (s *session) discover(ctx context.Context, fetch fetchMetadata) (*authserver.Metadata, error) {
	known, err := s.known()
	switch {
	case known == nil && err == nil:
		return s.first(ctx, fetch)
	case known != nil && s.takeRenewal():
		go s.renew(context.WithoutCancel(ctx), fetch)
	}
	return known, err
}

// known returns what there is to say without asking the server: nothing, at
// first, and when it is time to ask again after a first fetch that failed.
func (s *session) known() (*authserver.Metadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.metadata == nil && !time.Now().Before(s.nextTry) {
		return nil, nil
	}
	return s.metadata, s.err
}

// first fetches the metadata, once for all who want it.
func (s *session) first(ctx context.Context, fetch fetchMetadata) (*authserver.Metadata, error) {
	got, err, _ := s.flights.Do("", func() (any, error) {
		if known, err := s.known(); known != nil || err != nil {
			return known, err // it has come since the caller looked
		}
		return s.learn(ctx, fetch)
	})
	if err != nil {
		return nil, err
	}
	return got.(*authserver.Metadata), nil
}

// takeRenewal reports whether the metadata is to be renewed, by one caller at a
// time.
func (s *session) takeRenewal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.nextTry) {
		return false
	}
	s.nextTry = now.Add(metadataPause)
	return true
}

// renew fetches the metadata anew. Until that works, what is known will do.
func (s *session) renew(ctx context.Context, fetch fetchMetadata) {
	// Behind the token requests, there is nobody else to stop a panic in a
	// transport that another plugin brings.
	defer func() { _ = recover() }()
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	_, _ = s.learn(ctx, fetch)
}

// learn fetches the metadata and takes note of how that went.
func (s *session) learn(ctx context.Context, fetch fetchMetadata) (*authserver.Metadata, error) {
	metadata, err := fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = time.Now()
	switch {
	case err == nil:
		s.metadata, s.err, s.nextTry = metadata, nil, s.asked.Add(metadataLifetime)
	case s.metadata == nil:
		s.err, s.nextTry = err, s.asked.Add(metadataBackoff)
	}
	return metadata, err
}

// doubt has the metadata renewed before its time, as something failed that it
// may be the reason of: a server that has moved, say, or that supports us by
// now. That happens a minute after the last fetch at the earliest, and not if
// newer metadata has come meanwhile.
func (s *session) doubt(used *authserver.Metadata) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if soon := s.asked.Add(metadataPause); s.metadata == used && soon.Before(s.nextTry) {
		s.nextTry = soon
	}
}

// proofKey returns the key pair made in this process, making it at first.
func (s *session) proofKey() (*authserver.ProofKey, error) {
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
