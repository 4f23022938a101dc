// Command zitadel is the example provider of zitadel/oidc, set up by one JSON argument and listening
// on loopback:
//
//	zitadel '{"port": 4000, "issuer": "http://127.0.0.1:4000/", "clients": [ … ]}'
//
// The example has one built-in machine account, tokens of five minutes and an audience that keeps a
// separate API from introspecting them. What is added here: clients and lives from the argument, their keys
// and those of others whose assertions are taken, client_credentials for every client, JWT access tokens
// where a client wants them, and introspection by whichever client asks.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

type config struct {
	Port    int               `json:"port"`
	Issuer  string            `json:"issuer"`
	Clients []client          `json:"clients"`
	Trusted []assertionIssuer `json:"trusted"`
}

type client struct {
	ID           string             `json:"id"`
	Secret       string             `json:"secret"`
	RedirectURIs []string           `json:"redirect_uris"`
	TokenSeconds int                `json:"token_seconds"`
	JWT          bool               `json:"jwt"`
	AuthMethod   string             `json:"auth_method"`
	JWKS         jose.JSONWebKeySet `json:"jwks"`
}

type assertionIssuer struct {
	Issuer string          `json:"issuer"`
	Key    jose.JSONWebKey `json:"key"`
}

func main() {
	var cfg config
	if err := json.Unmarshal([]byte(os.Args[1]), &cfg); err != nil {
		log.Fatal(err)
	}

	store := &store{
		clients: make(map[string]client),
		keys:    make(map[string][]jose.JSONWebKey),
		issued:  make(map[string]token),
	}
	for _, t := range cfg.Trusted {
		store.keys[t.Issuer] = append(store.keys[t.Issuer], t.Key)
	}
	for _, c := range cfg.Clients {
		store.clients[c.ID] = c
		store.keys[c.ID] = append(store.keys[c.ID], c.JWKS.Keys...)
		storage.RegisterClients(storage.WebClient(c.ID, c.Secret, c.RedirectURIs...))
	}
	store.Storage = storage.NewStorage(users{})

	router := exampleop.SetupServer(cfg.Issuer, store, slog.Default(), false)
	log.Fatal(http.ListenAndServe(net.JoinHostPort("127.0.0.1", fmt.Sprint(cfg.Port)), router))
}

// store is the example's storage with the clients of the configuration.
type store struct {
	*storage.Storage
	clients map[string]client
	keys    map[string][]jose.JSONWebKey // by who signs with them

	mu     sync.Mutex
	issued map[string]token // by token id
}

type token struct {
	client  string
	expires time.Time
}

// machine is a client that may ask for tokens of its own.
type machine struct {
	op.Client
	jwt bool
}

func (machine) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}

func (m machine) AccessTokenType() op.AccessTokenType {
	if m.jwt {
		return op.AccessTokenTypeJWT
	}
	return op.AccessTokenTypeBearer
}

func (s *store) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := s.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
		return nil, err
	}
	registered, err := s.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return machine{registered, s.clients[id].JWT}, nil
}

func (s *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	// The provider takes a token apart at its colon: there must be none in the subject.
	return &oidc.JWTTokenRequest{Subject: url.QueryEscape(id), Audience: []string{id}, Scopes: scopes}, nil
}

// keyClient is a client that proves itself with its key.
type keyClient struct{ op.Client }

func (keyClient) AuthMethod() oidc.AuthMethod { return oidc.AuthMethodPrivateKeyJWT }

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	registered, err := s.Storage.GetClientByClientID(ctx, id)
	if err == nil && s.clients[id].AuthMethod == "private_key_jwt" {
		registered = keyClient{registered}
	}
	return registered, err
}

func (s *store) GetKeyByIDAndClientID(_ context.Context, keyID, issuer string) (*jose.JSONWebKey, error) {
	for _, key := range s.keys[issuer] {
		if key.KeyID == keyID {
			return &key, nil
		}
	}
	return nil, errors.New("no such key")
}

// ValidateJWTProfileScopes grants what an assertion's issuer asks for.
func (s *store) ValidateJWTProfileScopes(_ context.Context, _ string, scopes []string) ([]string, error) {
	return scopes, nil
}

func (s *store) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	if assertion, ok := r.(*oidc.JWTTokenRequest); ok && assertion.Issuer != "" {
		assertion.Audience = []string{assertion.Subject} // the assertion is for the server, the token isn't
	}
	id, _, err := s.Storage.CreateAccessToken(ctx, r)
	return id, s.remember(id, r), err
}

func (s *store) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	id, refresh, _, err := s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
	return id, refresh, s.remember(id, r), err
}

// remember notes for whom a token is and how long it lives: as long as its client's tokens do.
func (s *store) remember(id string, r op.TokenRequest) time.Time {
	owner, _ := url.QueryUnescape(r.GetSubject())
	if signedIn, ok := r.(interface{ GetClientID() string }); ok {
		owner = signedIn.GetClientID()
	}
	life := time.Duration(s.clients[owner].TokenSeconds) * time.Second

	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued[id] = token{owner, time.Now().Add(life)}
	return s.issued[id].expires
}

// SetIntrospectionFromToken answers any client as the example answers the token's own.
func (s *store) SetIntrospectionFromToken(ctx context.Context, answer *oidc.IntrospectionResponse, id, subject, _ string) error {
	s.mu.Lock()
	t := s.issued[id]
	s.mu.Unlock()
	if !time.Now().Before(t.expires) {
		return errors.New("token is expired or unknown")
	}
	if err := s.Storage.SetIntrospectionFromToken(ctx, answer, id, subject, t.client); err != nil {
		return err
	}
	answer.ClientID = t.client
	answer.Expiration = oidc.FromTime(t.expires)
	return nil
}

// users takes everybody in, with any name and the password that is the name.
type users struct{}

func (users) GetUserByID(id string) *storage.User {
	return &storage.User{ID: id, Username: id, Password: id}
}

func (u users) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }

func (users) ExampleClientID() string { return storage.ServiceUserID }
