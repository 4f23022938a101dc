// Package e2e runs the plugin in a real Caddy, between real authorization servers that others wrote and
// an API that checks every token with them. One command does everything, from a clean checkout too:
//
//	go test ./...
//
// It needs Go, node and npm, listens on loopback only, and ends what it started. With -v it prints what it
// measured.
//
//	traffic ──► proxy: Caddy with the plugin ──────────► resource: an API that refuses bad tokens
//	                       │                                        │
//	                       └──► front: counts, holds, ◄─────────────┘ introspection, JWKS
//	                            breaks off token requests
//	                                       │
//	                            authServer: oidc-provider, zitadel, …
//
// Each box is a file of that name. A further authorization server is a further row of kinds
// (authserver.go): a program that takes a serverConfig; the tests that range over kinds then run against
// it. A further way for clients to prove themselves with a secret is a row of clientAuths
// (client_credentials_test.go); keys and certificates have tests of their own (client_assertion_test.go,
// tls_client_auth_test.go), which run against oidc-provider alone, like those of DPoP and token exchange.
package e2e
