package upstreamoauth2

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// TestWarningsOfExposure: at whatever level Caddy logs, those are warned, and only
// those, whose config makes Caddy's own logs show a credential.
func TestWarningsOfExposure(t *testing.T) {
	proxy := func(url string) json.RawMessage {
		return fmt.Appendf(nil, `{"protocol": "http", "network_proxy": {"from": "url", "url": %q}}`, url)
	}
	tests := []struct {
		name   string
		client config.Client
		want   string // part of the one warning; "" for none
		fields string // that it names
	}{
		{"the token in Authorization", config.Client{}, "", ""},
		{"with a scheme", config.Client{Inject: &config.Inject{Scheme: "Token"}}, "", ""},
		{"in another field", config.Client{Inject: &config.Inject{Name: "x-api-key"}}, "the token or its proof", "[request>headers>X-Api-Key]"},
		{"in the query", config.Client{Inject: &config.Inject{In: "query", Name: "access_token"}}, "the token or its proof", "[request>uri]"},
		{"DPoP", config.Client{DPoP: new(config.DPoP), UpstreamBase: "https://api.example"}, "the token or its proof", "[request>headers>Dpop]"},

		{"callers' tokens in Authorization", config.Client{Grant: &config.Grant{Type: "token_exchange"}}, "", ""},
		{"in a field of their own", config.Client{Grant: &config.Grant{Type: "token_exchange", SubjectToken: "{http.request.header.X-Token}"}}, "callers bring their token", "[request>headers>X-Token]"},

		{"a proxy", config.Client{TransportRaw: proxy("http://proxy.example:3128")}, "", ""},
		{"a proxy from the environment", config.Client{TransportRaw: proxy("{env.PROXY}")}, "network_proxy", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			core, seen := observer.New(zapcore.WarnLevel)
			ctx := provisionBench(t, nil)
			t.Cleanup(func() { cleanUp(t, benchApp(t, ctx)) })
			test.client.TokenEndpoint, test.client.ClientID, test.client.ClientSecret = "http://127.0.0.1/token", "partner", new(config.Credential("secret"))
			c, err := newClient(ctx, &App{logs: newLogs(zap.New(core))}, "partner", test.client)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.close() })

			if test.want == "" {
				if seen.Len() > 0 {
					t.Errorf("there is a warning: %v", seen.All())
				}
				return
			}
			if seen.Len() != 1 || !strings.Contains(seen.All()[0].Message, test.want) {
				t.Fatalf("the warnings are %v, want one of %q", seen.All(), test.want)
			}
			named := ""
			if fields, ok := seen.All()[0].ContextMap()["fields"]; ok {
				named = fmt.Sprint(fields)
			}
			if named != test.fields {
				t.Errorf("the warning names %q, want %q", named, test.fields)
			}
		})
	}
}
