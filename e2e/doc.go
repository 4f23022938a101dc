// Package e2e runs the plugin in a real Caddy, between real authorization servers that others wrote and
// an API that checks every token with them. One command does everything, from a clean checkout too:
//
//	go test ./...
//
// It needs Go, a C compiler, node, npm and redis-server, listens on loopback only, and ends what it started. With -v it prints what it
// measured.
//
//	traffic ──► proxy: Caddy with the plugin ──────────► resource: an API that refuses bad tokens
//	                       │                                        │
//	                       └──► front: counts, holds, ◄─────────────┘ introspection, JWKS
//	                            breaks off token requests
//	                                       │
//	                            authServer: oidc-provider, zitadel, Ory Hydra
//
// Each box is a file of that name. A further authorization server is a further row of kinds
// (authserver.go): a program that takes a serverConfig; the tests that range over kinds then run against
// it. A further way for clients to prove themselves with a secret is a row of clientAuths
// (client_credentials_test.go). Keys, certificates and assertions have tests of their own
// (client_assertion_test.go, assertion_file_test.go, tls_client_auth_test.go, bound_tokens_test.go,
// jwt_bearer_test.go), which range over the servers that know them; DPoP, certificates and token exchange run
// against oidc-provider alone.
//
// Where grants are kept (keeping_test.go), several Caddys share a storage (storage.go) and are killed (replica.go).
package e2e
