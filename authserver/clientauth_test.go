package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// sent makes a token request with auth and returns it as it went out.
func sent(t *testing.T, auth authserver.ClientAuth) (http.Header, url.Values) {
	t.Helper()
	var header http.Header
	var form url.Values
	r := request(endpoint)
	r.Auth = auth
	token, err := do(t, r, roundTrip(func(req *http.Request) (*http.Response, error) {
		header = req.Header
		if err := req.ParseForm(); err != nil {
			t.Error(err)
		}
		form = req.PostForm
		return answering(http.StatusOK, http.Header{}, goodBody)(req)
	}))
	mustSucceed(t, token, err)
	return header, form
}

// RFC 6749 section 2.3.1: id and secret are form-encoded each, then joined by
// a colon. The encoding is that of appendix B, so a space is a plus.
func TestClientSecretBasic(t *testing.T) {
	tests := []struct {
		name       string
		id, secret string
		want       string // what stands in base64
		wantRaw    string // the same from client_secret_basic_raw
	}{
		{"letters and digits", "app7", "s3cret", "app7:s3cret", "app7:s3cret"},
		{"unreserved characters", "app-7_x.y", "a-b_c.d", "app-7_x.y:a-b_c.d", "app-7_x.y:a-b_c.d"},
		{"percent", "app%7", "100%25", "app%257:100%2525", "app%7:100%25"},
		{"plus", "app+7", "a+b", "app%2B7:a%2Bb", "app+7:a+b"},
		{"space", "app 7", " a b ", "app+7:+a+b+", "app 7: a b "},
		{"colon", "urn:app:7", "a:b", "urn%3Aapp%3A7:a%3Ab", "urn:app:7:a:b"},
		{"umlauts", "büro", "schlüssel", "b%C3%BCro:schl%C3%BCssel", "büro:schlüssel"},
		{"ampersand and equals", "a&b=c", "d&e=f", "a%26b%3Dc:d%26e%3Df", "a&b=c:d&e=f"},
		{"base64", "id==", "Zm9v/YmFy+w==", "id%3D%3D:Zm9v%2FYmFy%2Bw%3D%3D", "id==:Zm9v/YmFy+w=="},
		{"quotes and a backslash", `a"b`, `c\d'e`, "a%22b:c%5Cd%27e", `a"b:c\d'e`},
		{"a URL as id", "https://app.example/7?x#y", "s", "https%3A%2F%2Fapp.example%2F7%3Fx%23y:s", "https://app.example/7?x#y:s"},
		{"the example of appendix B", " %&+£€", "s", "+%25%26%2B%C2%A3%E2%82%AC:s", " %&+£€:s"},
		{"no secret", "app7", "", "app7:", "app7:"},
	}
	check := func(t *testing.T, auth authserver.ClientAuth, want string) {
		t.Helper()
		header, form := sent(t, auth)
		encoded, ok := strings.CutPrefix(header.Get("Authorization"), "Basic ")
		if !ok {
			t.Fatalf("Authorization: %q, want Basic", header["Authorization"])
		}
		got, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || string(got) != want {
			t.Errorf("sent %q (%v), want %q", got, err, want)
		}
		// One method for each request (section 2.3): nothing of it in the body.
		if form.Has("client_id") || form.Has("client_secret") {
			t.Errorf("the form repeats the credentials: %v", form)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := authserver.ClientSecretBasic{ID: test.id, Secret: authserver.NewSecret(test.secret)}
			check(t, auth, test.want)
			auth.Raw = true
			check(t, auth, test.wantRaw)
		})
	}
}

// What is sent must be read as it was meant by a server that does as RFC 6749
// says: split at the first colon, decode both halves.
func TestClientSecretBasicIsReadBack(t *testing.T) {
	var every strings.Builder
	for c := range rune(0x180) {
		every.WriteRune(c)
	}
	for _, value := range []string{clientSecret, every.String(), "%41", "a+b c:d", "\xff\xfe"} {
		header, _ := sent(t, authserver.ClientSecretBasic{ID: value, Secret: authserver.NewSecret(value)})
		id, secret, ok := (&http.Request{Header: header}).BasicAuth()
		if !ok {
			t.Fatalf("no Basic credentials in %q", header["Authorization"])
		}
		for part, got := range map[string]string{"id": id, "secret": secret} {
			if decoded, err := url.QueryUnescape(got); err != nil || decoded != value {
				t.Errorf("the %s comes out as %q (%v), want %q", part, decoded, err, value)
			}
		}
	}
}

// Id and secret as form fields: encoded once, by the form.
func TestClientSecretPost(t *testing.T) {
	for _, secret := range []string{"s3cret", "100%25", "a+b c:d&e=f", "schlüssel", clientSecret} {
		t.Run(secret, func(t *testing.T) {
			header, form := sent(t, authserver.ClientSecretPost{ID: "id+" + secret, Secret: authserver.NewSecret(secret)})
			if got := form["client_id"]; len(got) != 1 || got[0] != "id+"+secret {
				t.Errorf("client_id %q, want %q", got, "id+"+secret)
			}
			if got := form["client_secret"]; len(got) != 1 || got[0] != secret {
				t.Errorf("client_secret %q, want %q", got, secret)
			}
			if got := header["Authorization"]; got != nil {
				t.Errorf("Authorization %q beside the form", got)
			}
		})
	}
}

// A public client names itself and proves nothing.
func TestPublicClient(t *testing.T) {
	header, form := sent(t, authserver.PublicClient{ID: "app 7"})
	if got := form["client_id"]; len(got) != 1 || got[0] != "app 7" {
		t.Errorf("client_id %q, want app 7", got)
	}
	if form.Has("client_secret") || header["Authorization"] != nil {
		t.Errorf("credentials of a client that has none: %v, %v", form, header)
	}
}

// A client without an id sends none, not an empty one (RFC 6749 section 3.2).
func TestClientWithoutID(t *testing.T) {
	for _, auth := range []authserver.ClientAuth{
		authserver.PublicClient{},
		authserver.TLSClientAuth{},
		authserver.ClientAssertion{Assertion: authserver.NewSecret("a.b.c")},
	} {
		t.Run(fmt.Sprintf("%T", auth), func(t *testing.T) {
			if _, form := sent(t, auth); form.Has("client_id") {
				t.Errorf("client_id %q is sent", form["client_id"])
			}
		})
	}
}

// What the operator reads when the server does not accept the client says what
// was sent, and what to look at.
func TestAdvice(t *testing.T) {
	secret := authserver.NewSecret(strings.Repeat(clientSecret, 3))
	key, certificate := newCertifiedKey(t, "kid-7", time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC))
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://kubernetes.example","aud":["sts.example"],"exp":1580702706}`))
	for _, test := range []struct {
		name string
		auth authserver.ClientAuth
		want string
	}{
		{
			"client_secret_basic", authserver.ClientSecretBasic{ID: "app", Secret: secret},
			"check 'client_id' and 'client_secret', and whether the server wants them as client_secret_basic: 'client_auth client_secret_post' is another way",
		},
		{
			"client_secret_basic_raw", authserver.ClientSecretBasic{ID: "app", Secret: secret, Raw: true},
			"check 'client_id' and 'client_secret', and whether the server wants them as client_secret_basic_raw: 'client_auth client_secret_basic' is another way",
		},
		{
			"client_secret_post", authserver.ClientSecretPost{ID: "app", Secret: secret},
			"check 'client_id' and 'client_secret', and whether the server wants them as client_secret_post: 'client_auth client_secret_basic' is another way",
		},
		{
			"client_secret_jwt", authserver.ClientSecretJWT{ID: "app", Secret: secret, Audience: "https://auth.example/token?key=" + clientSecret},
			`the assertion was signed with 'client_secret' and HS256, for the audience "https://auth.example/token": check the secret, and which 'algorithm' and 'audience' the server wants`,
		},
		{
			"private_key_jwt", authserver.PrivateKeyJWT{ID: "app", Key: key, Audience: "https://auth.example"},
			`the assertion was signed with ES256 and the key "kid-7", for the audience "https://auth.example": check that the server knows this key for this 'client_id', and which 'audience' it wants`,
		},
		{
			"tls_client_auth", authserver.TLSClientAuth{ID: "app", Certificate: certificate},
			`the client certificate of "CN=partner", issued by "CN=partner", expired on 2020-02-03T04:05:06Z: check that the server takes it for this 'client_id'`,
		},
		{
			"assertion_file", authserver.ClientAssertion{ID: "app", Assertion: authserver.NewSecret("e30." + claims + ".c2ln")},
			`the assertion in the file is of "https://kubernetes.example", for the audience "sts.example", and expired on 2020-02-03T04:05:06Z: check that the server trusts it for this client, and that it is renewed in time`,
		},
		{
			"assertion_file without claims", authserver.ClientAssertion{ID: "app", Assertion: authserver.NewSecret("a.b.c")},
			"the assertion in the file is of no form that can be read here: check that the server trusts it for this client, and that it is renewed in time",
		},
		{
			"none", authserver.PublicClient{ID: "app"},
			"check 'client_id', and whether the server takes this client without a proof: 'client_auth' says how else it can prove itself",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request(endpoint)
			r.Auth = test.auth
			token, err := do(t, r, answering(http.StatusUnauthorized, http.Header{}, `{"error":"invalid_client"}`))
			failed := mustFail(t, token, err)
			if want := "the authorization server refused the token request (invalid_client); " + test.want; failed.Error() != want {
				t.Errorf("the error is\n%s, want\n%s", failed, want)
			}
		})
	}
}

// A server that decodes what client_secret_basic_raw sends as it is may stumble over
// a percent sign, and blames the request.
func TestAdviceOnSecretsThatAreNotEncoded(t *testing.T) {
	const (
		encode  = "check 'client_id' and 'client_secret', and whether the server wants them as client_secret_basic_raw: 'client_auth client_secret_basic' is another way"
		generic = "a field is missing or malformed: check 'token_param' and the server's documentation"
	)
	tests := []struct {
		name       string
		id, secret string
		raw        bool
		want       string
	}{
		{"a percent sign in the secret", "app", "50%off", true, encode},
		{"a percent sign in the id", "app%7", "s", true, encode},
		{"none", "app", "s+/", true, generic},
		{"encoded", "app", "50%off", false, generic},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request(endpoint)
			r.Auth = authserver.ClientSecretBasic{ID: test.id, Secret: authserver.NewSecret(test.secret), Raw: test.raw}
			token, err := do(t, r, answering(http.StatusBadRequest, http.Header{}, `{"error":"invalid_request"}`))
			if got, want := mustFail(t, token, err).Error(), "the authorization server refused the token request (invalid_request); "+test.want; got != want {
				t.Errorf("the error is\n%s, want\n%s", got, want)
			}
		})
	}
}

// A server that does not like the certificate rarely says so in OAuth's words: what
// is in front of it answers with a web page, or not at all.
func TestAdviceOnCertificates(t *testing.T) {
	_, certificate := newCertifiedKey(t, "", time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC))
	presents := authserver.TLSClientAuth{ID: "app", Certificate: certificate}
	const advice = `; the client certificate of "CN=partner", issued by "CN=partner", expired on 2020-02-03T04:05:06Z: check that the server takes it for this 'client_id'`
	page := func(status int) roundTrip {
		return answering(status, http.Header{}, "<html>No required SSL certificate was sent")
	}
	ends := func(err error) roundTrip {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	tests := []struct {
		name   string
		answer roundTrip
		advice bool
	}{
		{"400 with a web page", page(400), true},
		{"401 with a web page", page(401), true},
		{"403 with a web page", page(403), true},
		{"nginx's 495", page(495), true},
		{"nginx's 496", page(496), true},
		{"403 with JSON", answering(403, http.Header{}, `{"message":"Forbidden"}`), true},
		{"closed", ends(io.EOF), true},
		{"closed with HTTP/2", ends(fmt.Errorf("http2: %w", io.ErrUnexpectedEOF)), true},
		{"reset", ends(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), true},
		{"closed ahead of the request", ends(errors.New("http: server closed idle connection")), true},
		{"closed ahead of the request with HTTP/2", ends(errors.New("http2: client conn could not be established")), true},

		{"404 with a web page", page(404), false},
		{"503 with a web page", page(503), false},
		{"an OAuth error", answering(400, http.Header{}, `{"error":"invalid_scope"}`), false},
		{"an answer that breaks off", func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)), Request: r}, nil
		}, false},
		{"no route", ends(errors.New("no route to host")), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request(endpoint)
			r.Auth = presents
			token, err := do(t, r, test.answer)
			if got := mustFail(t, token, err).Error(); strings.HasSuffix(got, advice) != test.advice {
				t.Errorf("the error is\n%s", got)
			}

			token, err = do(t, request(endpoint), test.answer)
			if got := mustFail(t, token, err).Error(); strings.Contains(got, "certificate of") {
				t.Errorf("without a certificate, the error is\n%s", got)
			}
		})
	}
}

// When a server does not accept the assertion of a grant, they read what that says.
func TestAdviceOnGrants(t *testing.T) {
	r := request(endpoint)
	key, _ := newCertifiedKey(t, "kid-7", time.Now())
	r.Assertion = &authserver.GrantAssertion{Key: key, Claims: authserver.AssertionClaims{Issuer: "app", Audience: endpoint + "?key=" + clientSecret}}
	token, err := do(t, r, answering(http.StatusBadRequest, http.Header{}, `{"error":"invalid_grant"}`))
	failed := mustFail(t, token, err)
	want := `the authorization server refused the token request (invalid_grant); the assertion of "app" was signed with ES256 and the key "kid-7", for the audience "` + endpoint +
		`": check that the server trusts this issuer and key, takes the subject, and wants this 'audience'`
	if failed.Error() != want {
		t.Errorf("the error is\n%s, want\n%s", failed, want)
	}
}

// newCertifiedKey returns a key and a certificate for it that signs itself.
func newCertifiedKey(t *testing.T, id string, expires time.Time) (*authserver.SigningKey, []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := authserver.ParseSigningKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), authserver.KeyOptions{KeyID: id})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, NotAfter: expires}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
}
