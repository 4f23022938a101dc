package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestTokensBoundByDPoP(t *testing.T) {
	for _, row := range []struct {
		name         string
		keyFile      bool // the key pair stands in a file; otherwise it is made in the process
		serverNonces bool // the authorization server wants nonces
		apiNonce     string
	}{
		{name: "a key of the process"},
		{name: "a key file", keyFile: true},
		{name: "nonces of the authorization server", serverNonces: true},
		{name: "a nonce of the API", apiNonce: "the-nonce-of-the-api"},
		{name: "nonces of both", serverNonces: true, apiNonce: "the-nonce-of-the-api"},
	} {
		for _, format := range []string{"opaque", "JWT"} {
			t.Run(row.name+"/"+format, func(t *testing.T) {
				clientKey, dpopKey := newKey(t, "ES256"), newKey(t, "ES256")
				client := newClient("partner", time.Hour).withKeys(t, clientKey)
				client.private = append(client.private, strings.Split(asPEM(t, dpopKey), "\n")[1])
				var lines string
				if format == "JWT" {
					lines = oidcProvider.jwt(&client)
				}
				dpop := "dpop"
				if row.keyFile {
					dpop += " " + newFile(t, asPEM(t, dpopKey))
				}
				server := startAuthServer(t, oidcProvider, client)
				if row.serverNonces {
					server.config.DPoPNonces = true
					server.process.end()
					server.start()
				}
				api := startResource(t, server)
				api.nonce = row.apiNonce
				proxy := startProxy(t, server, client, api, server.byIssuer(client, newFile(t, asJWK(t, clientKey))),
					dpop, "upstream_base "+api.URL, lines)

				welcome := fmt.Sprintf("welcome, partner, with your %s token\n", format)
				paths := []string{"/", "/orders/1?of=day", "/a%20b/%C3%A4%2Fc", "//twice", "/dots/../x"}
				for _, path := range paths {
					for _, method := range []string{http.MethodGet, http.MethodPost} {
						request, err := http.NewRequest(method, proxy.URL+path, strings.NewReader("a body"))
						if err != nil {
							t.Fatal(err)
						}
						request.Header.Set("DPoP", "the-callers-own")
						if got := send(http.DefaultClient, request); got.status != http.StatusOK || got.body != welcome {
							t.Errorf("%s %s: %v", method, path, got)
						}
					}
				}
				if granted := server.granted(); len(granted) != 1 {
					t.Errorf("%d token requests were granted, want 1", len(granted))
				}
				if refused := api.refused(); row.apiNonce == "" && len(refused) > 0 || len(refused) > 1 {
					t.Errorf("the API refused %q", refused)
				}

				tokens := api.accepted()
				if len(tokens) != 1 {
					t.Fatalf("%d tokens came to the API, want 1", len(tokens))
				}
				if jkt := tokens[0].facts.jkt; jkt == "" || row.keyFile != (jkt == thumbprint(dpopKey)) {
					t.Errorf("the token is bound to %q, the key file has %q", jkt, thumbprint(dpopKey))
				}
				// A token that leaks is of no use.
				for _, scheme := range []string{"Bearer ", "DPoP "} {
					if got := getAs(t.Context(), http.DefaultClient, api.URL, scheme+api.seen()[0]); got.status != http.StatusUnauthorized {
						t.Errorf("the token without a proof: %v", got)
					}
				}
			})
		}
	}
}

// Proofs belong to one request each, under traffic and renewals too.
func TestDPoPUnderTraffic(t *testing.T) {
	t.Parallel()
	key := newKey(t, "ES256")
	client := newClient("partner", 4*time.Second).withKeys(t, key)
	server := startAuthServer(t, oidcProvider, client)
	api := startResource(t, server)
	proxy := startProxy(t, server, client, api, server.byIssuer(client, newFile(t, asJWK(t, key))),
		"dpop", "upstream_base "+api.URL)
	flow := startTraffic(t, proxy.URL, 4)
	eventually(t, "the token has been renewed often enough", func() bool { return len(api.accepted()) > 2 })
	answers := flow.stop()
	allOK(t, answers)
	if refused := api.refused(); len(refused) > 0 {
		t.Errorf("the API refused %d requests: %q", len(refused), refused[0])
	}
	t.Logf("%d requests, each with a proof of its own; %d tokens", len(answers), len(api.accepted()))
}
