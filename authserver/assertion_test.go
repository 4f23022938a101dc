package authserver_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

const issuer = "https://auth.example.com"

// takeJTI checks that the claims have a jti that is random enough, and takes
// it out of them.
func takeJTI(t *testing.T, claims map[string]any) string {
	t.Helper()
	jti, _ := claims["jti"].(string)
	if len(jti) < 26 { // 128 bits in base32
		t.Errorf("jti is %q, too short for 128 bits", jti)
	}
	delete(claims, "jti")
	return jti
}

// The claims of an assertion, to the second.
func TestAssertionClaims(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix() // where synctest begins
	tests := []struct {
		name   string
		claims authserver.AssertionClaims
		typ    string
		want   map[string]any
	}{
		{
			"as short as it gets",
			authserver.AssertionClaims{Issuer: "app-7", Audience: issuer},
			"JWT",
			map[string]any{"iss": "app-7", "aud": issuer, "iat": now - 10, "nbf": now - 10, "exp": now + 50},
		},
		{
			"all set",
			authserver.AssertionClaims{
				Issuer: "app-7", Subject: "ada", Audience: issuer, Lifetime: time.Hour, Type: "x+jwt",
				More: map[string]any{"scope": "read", "https://example.com/tenant": 7, "list": []string{"a", "b"}},
			},
			"x+jwt",
			map[string]any{
				"iss": "app-7", "sub": "ada", "aud": issuer, "iat": now - 10, "nbf": now - 10, "exp": now + 3590,
				"scope": "read", "https://example.com/tenant": 7, "list": []string{"a", "b"},
			},
		},
		{
			"a short life is mostly ahead",
			authserver.AssertionClaims{Issuer: "app-7", Audience: issuer, Lifetime: 8 * time.Second},
			"JWT",
			map[string]any{"iss": "app-7", "aud": issuer, "iat": now - 2, "nbf": now - 2, "exp": now + 6},
		},
		{
			"a negative life is the default one",
			authserver.AssertionClaims{Issuer: "app-7", Audience: issuer, Lifetime: -time.Hour},
			"JWT",
			map[string]any{"iss": "app-7", "aud": issuer, "iat": now - 10, "nbf": now - 10, "exp": now + 50},
		},
		{
			"more never wins",
			authserver.AssertionClaims{Issuer: "app-7", Audience: issuer, More: map[string]any{
				"iss": "evil", "sub": "evil", "aud": "evil", "iat": 0, "nbf": 0, "exp": 1 << 40, "jti": "evil",
			}},
			"JWT",
			map[string]any{"iss": "app-7", "aud": issuer, "iat": now - 10, "nbf": now - 10, "exp": now + 50},
		},
	}
	key := mustParseKey(t, edJWK, authserver.KeyOptions{KeyID: "k1"})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				given := maps.Clone(test.claims.More)
				assertion, err := authserver.SignAssertion(key, test.claims)
				if err != nil {
					t.Fatal(err)
				}
				header, claims := verified(t, assertion.Reveal(), "EdDSA", publicOf(t, edJWK))
				takeJTI(t, claims)
				checkSame(t, "the payload", claims, test.want)
				checkSame(t, "the header", header, map[string]any{"alg": "EdDSA", "typ": test.typ, "kid": "k1"})
				checkSame(t, "what was given", test.claims.More, given)
			})
		})
	}
}

func TestAssertionRefused(t *testing.T) {
	key := mustParseKey(t, edJWK, authserver.KeyOptions{})
	tests := []struct {
		name   string
		claims authserver.AssertionClaims
		says   string
	}{
		{"no issuer", authserver.AssertionClaims{Subject: "ada", Audience: issuer}, "issuer and an audience"},
		{"no audience", authserver.AssertionClaims{Issuer: "app-7"}, "issuer and an audience"},
		{"a claim that is not JSON", authserver.AssertionClaims{Issuer: "a", Audience: "b", More: map[string]any{"f": func() {}}}, "JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			assertion, err := authserver.SignAssertion(key, test.claims)
			if err == nil || !assertion.IsZero() {
				t.Fatalf("got %v and error %v, want an error alone", assertion, err)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
		})
	}
}

// What each way to send an assertion puts in the form, and nothing in the
// header.
func TestClientAssertionForm(t *testing.T) {
	key := mustParseKey(t, rsaJWK, authserver.KeyOptions{Algorithm: "PS256"})
	secret := strings.Repeat("s3cret!~", 8)
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	more := map[string]any{"tenant": "t1", "sub": "evil"}
	tests := []struct {
		name      string
		auth      authserver.ClientAuth
		algorithm string
		key       any
		header    map[string]any
		aud       string
		exp       int64
	}{
		{
			"private_key_jwt",
			authserver.PrivateKeyJWT{ID: "app-7", Key: key, Audience: issuer},
			"PS256", publicOf(t, rsaJWK),
			map[string]any{"alg": "PS256", "typ": "client-authentication+jwt", "kid": "2011-04-29"},
			issuer, now + 50,
		},
		{
			"private_key_jwt for an older server",
			authserver.PrivateKeyJWT{ID: "app-7", Key: key, Audience: issuer + "/token", Lifetime: 5 * time.Minute, Type: "JWT"},
			"PS256", publicOf(t, rsaJWK),
			map[string]any{"alg": "PS256", "typ": "JWT", "kid": "2011-04-29"},
			issuer + "/token", now + 290,
		},
		{
			"private_key_jwt with further claims",
			authserver.PrivateKeyJWT{ID: "app-7", Key: key, Audience: issuer, More: more},
			"PS256", publicOf(t, rsaJWK),
			map[string]any{"alg": "PS256", "typ": "client-authentication+jwt", "kid": "2011-04-29"},
			issuer, now + 50,
		},
		{
			"client_secret_jwt with further claims",
			authserver.ClientSecretJWT{ID: "app-7", Secret: authserver.NewSecret(secret), Audience: issuer, More: more},
			"HS256", []byte(secret),
			map[string]any{"alg": "HS256", "typ": "client-authentication+jwt"},
			issuer, now + 50,
		},
		{
			"client_secret_jwt",
			authserver.ClientSecretJWT{ID: "app-7", Secret: authserver.NewSecret(secret), Audience: issuer},
			"HS256", []byte(secret),
			map[string]any{"alg": "HS256", "typ": "client-authentication+jwt"},
			issuer, now + 50,
		},
		{
			"client_secret_jwt with HS384",
			authserver.ClientSecretJWT{ID: "app-7", Secret: authserver.NewSecret(secret), Audience: issuer, Algorithm: "HS384"},
			"HS384", []byte(secret),
			map[string]any{"alg": "HS384", "typ": "client-authentication+jwt"},
			issuer, now + 50,
		},
		{
			"client_secret_jwt with HS512 for an older server",
			authserver.ClientSecretJWT{ID: "app-7", Secret: authserver.NewSecret(secret), Audience: issuer, Algorithm: "HS512", Type: "JWT", Lifetime: 2 * time.Minute},
			"HS512", []byte(secret),
			map[string]any{"alg": "HS512", "typ": "JWT"},
			issuer, now + 110,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				header, form := make(http.Header), make(url.Values)
				if err := test.auth.Authenticate(form, header); err != nil {
					t.Fatal(err)
				}
				if len(header) != 0 {
					t.Errorf("the header is %v, want none", header)
				}
				assertion := form.Get("client_assertion")
				form.Del("client_assertion")
				checkSame(t, "the rest of the form", form, url.Values{
					"client_id":             {"app-7"},
					"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
				})
				got, claims := verified(t, assertion, test.algorithm, test.key)
				takeJTI(t, claims)
				if strings.Contains(test.name, "further claims") {
					checkSame(t, "the further claim", claims["tenant"], "t1")
					delete(claims, "tenant")
				}
				checkSame(t, "the header", got, test.header)
				checkSame(t, "the payload", claims, map[string]any{
					"iss": "app-7", "sub": "app-7", "aud": test.aud, "iat": now - 10, "nbf": now - 10, "exp": test.exp,
				})
			})
		})
	}
}

// No two assertions have the same jti.
func TestAssertionIsMadeAnew(t *testing.T) {
	auth := authserver.PrivateKeyJWT{ID: "app-7", Key: mustParseKey(t, edJWK, authserver.KeyOptions{}), Audience: issuer}
	seen := make(map[string]bool)
	for range 100 {
		form := make(url.Values)
		if err := auth.Authenticate(form, nil); err != nil {
			t.Fatal(err)
		}
		_, claims := verified(t, form.Get("client_assertion"), "EdDSA", publicOf(t, edJWK))
		seen[takeJTI(t, claims)] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 assertions have %d jti", len(seen))
	}
}

// RFC 7518 section 3.2 wants a key as long as the hash.
func TestClientSecretJWTRefused(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 8)
	tests := []struct {
		name      string
		secret    string
		algorithm string
		says      []string // nil if it works
	}{
		{"HS256 with 31 bytes", long[:31], "HS256", []string{"HS256", "32 bytes", "RFC 7518"}},
		{"HS256 with 32 bytes", long[:32], "HS256", nil},
		{"HS384 with 47 bytes", long[:47], "HS384", []string{"HS384", "48 bytes", "RFC 7518"}},
		{"HS384 with 48 bytes", long[:48], "HS384", nil},
		{"HS512 with 63 bytes", long[:63], "HS512", []string{"HS512", "64 bytes", "RFC 7518"}},
		{"HS512 with 64 bytes", long[:64], "HS512", nil},
		{"the default with 31 bytes", long[:31], "", []string{"HS256", "32 bytes", "RFC 7518"}},
		{"no secret", "", "", []string{"32 bytes"}},
		{"an algorithm for key pairs", long, "RS256", []string{`"RS256"`, "HS256, HS384 or HS512"}},
		{"none", long, "none", []string{`"none"`, "HS256, HS384 or HS512"}},
		{"in small letters", long, "hs256", []string{`"hs256"`, "HS256, HS384 or HS512"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			form := make(url.Values)
			auth := authserver.ClientSecretJWT{ID: "app-7", Secret: authserver.NewSecret(test.secret), Algorithm: test.algorithm, Audience: issuer}
			err := auth.Authenticate(form, nil)
			if test.says == nil {
				if err != nil {
					t.Fatal(err)
				}
				verified(t, form.Get("client_assertion"), test.algorithm, []byte(test.secret))
				return
			}
			if err == nil || len(form) != 0 {
				t.Fatalf("got form %v and error %v, want an error alone", form, err)
			}
			for _, says := range test.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not say %q", err, says)
				}
			}
			checkKeyHidden(t, err.Error(), test.secret)
		})
	}
}

// Each way to authenticate refuses to sign for nobody or to no one.
func TestClientAssertionNeedsItsClaims(t *testing.T) {
	key := mustParseKey(t, edJWK, authserver.KeyOptions{})
	secret := authserver.NewSecret(strings.Repeat("0123456789abcdef", 8))
	for name, auth := range map[string]authserver.ClientAuth{
		"private_key_jwt without id":         authserver.PrivateKeyJWT{Key: key, Audience: issuer},
		"private_key_jwt without audience":   authserver.PrivateKeyJWT{Key: key, ID: "app-7"},
		"client_secret_jwt without id":       authserver.ClientSecretJWT{Secret: secret, Audience: issuer},
		"client_secret_jwt without audience": authserver.ClientSecretJWT{Secret: secret, ID: "app-7"},
	} {
		t.Run(name, func(t *testing.T) {
			form := make(url.Values)
			if err := auth.Authenticate(form, nil); err == nil || len(form) != 0 {
				t.Errorf("got form %v and error %v, want an error alone", form, err)
			}
		})
	}
}

func TestReadyMadeAssertion(t *testing.T) {
	const jwt = "eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl"
	tests := []struct {
		name, id, assertion string
		sent                string // empty if it is refused
	}{
		{"as it is", "app-7", jwt, jwt},
		{"with the line break of its file", "app-7", jwt + "\n", jwt},
		{"without client id", "", jwt, jwt},
		{"empty", "app-7", "", ""},
		{"white space", "app-7", " \n", ""},
		{"something else", "app-7", "correct-horse-battery-staple", ""},
		{"two lines", "app-7", jwt[:20] + "\r\n" + jwt[20:], ""},
		{"five parts, as encrypted ones have", "app-7", "a.b.c.d.e", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			form := make(url.Values)
			err := authserver.ClientAssertion{ID: test.id, Assertion: authserver.NewSecret(test.assertion)}.Authenticate(form, nil)
			if test.sent == "" {
				if err == nil || len(form) != 0 {
					t.Fatalf("got form %v and error %v, want an error alone", form, err)
				}
				if !strings.Contains(err.Error(), "assertion_file") {
					t.Errorf("%q does not name the option", err)
				}
				checkKeyHidden(t, err.Error(), test.assertion)
				return
			}
			want := url.Values{
				"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
				"client_assertion":      {test.sent},
			}
			if test.id != "" {
				want.Set("client_id", test.id)
			}
			if err != nil {
				t.Fatal(err)
			}
			checkSame(t, "the form", form, want)
		})
	}
}

// An assertion that the server repeats does not show up in the error.
func TestAssertionIsRedacted(t *testing.T) {
	var sent []string
	echo := roundTrip(func(r *http.Request) (*http.Response, error) {
		if err := r.ParseForm(); err != nil {
			return nil, err
		}
		sent = append(sent, r.PostForm.Get("client_assertion"))
		return answering(http.StatusUnauthorized, nil, `{"error":"invalid_client","error_description":"bad `+sent[0]+`"}`)(r)
	})
	r := request(endpoint)
	r.Auth = authserver.PrivateKeyJWT{ID: "app-7", Key: mustParseKey(t, edJWK, authserver.KeyOptions{}), Audience: issuer}
	token, err := do(t, r, echo)
	failed := mustFail(t, token, err)
	checkKind(t, failed, authserver.Refused)
	if slices.Contains(sent, "") || !strings.Contains(failed.Error(), "bad [redacted]") {
		t.Fatalf("%q is not what the server says, redacted", failed)
	}
	checkKeyHidden(t, failed.Error(), sent[0])
}
