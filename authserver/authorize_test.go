package authserver_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// The verifier and the challenge of RFC 7636 appendix B.
const (
	rfcVerifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	rfcChallenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

const redirectURI = "https://gateway.example.com/connect/partner/callback"

// authorization is an authorization request with what each of them needs.
func authorization() authserver.AuthorizationRequest {
	return authserver.AuthorizationRequest{
		Endpoint:    "https://auth.example.com/authorize",
		ClientID:    clientID,
		RedirectURI: redirectURI,
		State:       authserver.NewSecret("state-1"),
		Verifier:    authserver.NewSecret(rfcVerifier),
	}
}

func TestAuthorizationRequestURL(t *testing.T) {
	tests := []struct {
		name   string
		change func(*authserver.AuthorizationRequest)
		begins string
		more   url.Values // besides the parameters of every request
	}{
		{
			"as little as can be",
			func(*authserver.AuthorizationRequest) {},
			"https://auth.example.com/authorize?", nil,
		},
		{
			"scope",
			func(r *authserver.AuthorizationRequest) { r.Scope = "read:data offline_access" },
			"https://auth.example.com/authorize?",
			url.Values{"scope": {"read:data offline_access"}},
		},
		{
			"several resources and audiences",
			func(r *authserver.AuthorizationRequest) {
				r.Resource = []string{"https://a.example.com", "https://b.example.com/?c=d&e"}
				r.Audience = []string{"one", "two"}
			},
			"https://auth.example.com/authorize?",
			url.Values{"resource": {"https://a.example.com", "https://b.example.com/?c=d&e"}, "audience": {"one", "two"}},
		},
		{
			"further parameters, without empty ones",
			func(r *authserver.AuthorizationRequest) {
				r.Params = url.Values{"access_type": {"offline"}, "prompt": {"consent"}, "login_hint": {""}}
				r.Resource = []string{""}
			},
			"https://auth.example.com/authorize?",
			url.Values{"access_type": {"offline"}, "prompt": {"consent"}},
		},
		{
			"key of DPoP (RFC 9449 section 10)",
			func(r *authserver.AuthorizationRequest) { r.Proof = mustProofKey(t, edJWK) },
			"https://auth.example.com/authorize?",
			url.Values{"dpop_jkt": {edThumbprint}},
		},
		{
			"the endpoint's query is kept (RFC 6749 section 3.1)",
			func(r *authserver.AuthorizationRequest) { r.Endpoint += "?tenant=a%2Fb&p=B2C_1" },
			"https://auth.example.com/authorize?tenant=a%2Fb&p=B2C_1&",
			url.Values{"tenant": {"a/b"}, "p": {"B2C_1"}},
		},
		{
			"the redirect URI to the letter",
			func(r *authserver.AuthorizationRequest) { r.RedirectURI = "HTTP://127.0.0.1:0815/a%2Fb//?x=%20+" },
			"https://auth.example.com/authorize?",
			url.Values{"redirect_uri": {"HTTP://127.0.0.1:0815/a%2Fb//?x=%20+"}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := authorization()
			test.change(&r)
			address, err := r.URL()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(address, test.begins) {
				t.Errorf("%s does not begin with %s", address, test.begins)
			}
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			want := url.Values{
				"response_type":         {"code"},
				"client_id":             {clientID},
				"redirect_uri":          {redirectURI},
				"state":                 {"state-1"},
				"code_challenge":        {rfcChallenge},
				"code_challenge_method": {"S256"},
			}
			for name, values := range test.more {
				want[name] = values
			}
			checkSame(t, "the query", u.Query(), want)
			if strings.Contains(address, rfcVerifier) {
				t.Error("the address gives the verifier away")
			}
		})
	}
}

func TestAuthorizationRequestRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*authserver.AuthorizationRequest)
		says   string
	}{
		{"no endpoint", func(r *authserver.AuthorizationRequest) { r.Endpoint = "" }, "'authorization_endpoint' must be an absolute URL"},
		{"endpoint with a fragment", func(r *authserver.AuthorizationRequest) { r.Endpoint += "#x" }, "'authorization_endpoint' must not have a fragment"},
		{"endpoint that is no web address", func(r *authserver.AuthorizationRequest) { r.Endpoint = "javascript://a/%0aalert(1)" }, "'authorization_endpoint' must be an https URL"},
		{"endpoint whose query has a state", func(r *authserver.AuthorizationRequest) { r.Endpoint += "?state=x" }, "'authorization_endpoint' must not have state in its query"},
		{"no client", func(r *authserver.AuthorizationRequest) { r.ClientID = "" }, "'client_id'"},
		{"no state", func(r *authserver.AuthorizationRequest) { r.State = authserver.Secret{} }, "a state and a verifier"},
		{"no verifier", func(r *authserver.AuthorizationRequest) { r.Verifier = authserver.Secret{} }, "a state and a verifier"},
		{"no redirect URI", func(r *authserver.AuthorizationRequest) { r.RedirectURI = "" }, "the redirect URI must be"},
		{"relative redirect URI", func(r *authserver.AuthorizationRequest) { r.RedirectURI = "/callback" }, "the redirect URI must be"},
		{"redirect URI with a fragment", func(r *authserver.AuthorizationRequest) { r.RedirectURI += "#" }, "the redirect URI must be"},
		{"another challenge", func(r *authserver.AuthorizationRequest) { r.Params = url.Values{"code_challenge": {"x"}} }, "must not set code_challenge"},
		{"another state", func(r *authserver.AuthorizationRequest) { r.Params = url.Values{"state": {"x"}} }, "must not set state"},
		{"another way back", func(r *authserver.AuthorizationRequest) { r.Params = url.Values{"response_mode": {"form_post"}} }, "must not set response_mode"},
		{"the implicit flow", func(r *authserver.AuthorizationRequest) { r.Params = url.Values{"response_type": {"token"}} }, "must not set response_type"},
		{"the secret in the address", func(r *authserver.AuthorizationRequest) { r.Params = url.Values{"client_secret": {clientSecret}} }, "must not set client_secret"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := authorization()
			test.change(&r)
			address, err := r.URL()
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok || address != "" {
				t.Fatalf("got %q and error %v, want an *Error", address, err)
			}
			checkKind(t, failed, authserver.Unprepared)
			if !strings.Contains(failed.Error(), test.says) {
				t.Errorf("%q does not say %q", failed, test.says)
			}
			checkHidden(t, failed.Error())
		})
	}
}

// State and verifier are new each time, and long enough not to be guessed.
func TestNewStateAndVerifier(t *testing.T) {
	for name, generate := range map[string]func() authserver.Secret{"state": authserver.NewState, "verifier": authserver.NewVerifier} {
		t.Run(name, func(t *testing.T) {
			one, other := generate().Reveal(), generate().Reveal()
			if one == other {
				t.Errorf("%s comes twice", one)
			}
			if len(one) < 26 || strings.ContainsFunc(one, func(r rune) bool {
				return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", r)
			}) {
				t.Errorf("%s is short, or not of unreserved characters (RFC 7636 section 4.1)", one)
			}
		})
	}
}
