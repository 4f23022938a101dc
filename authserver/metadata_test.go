package authserver_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// published is the metadata of an issuer, with the members that are given.
func published(t *testing.T, issuer string, changed map[string]any) string {
	t.Helper()
	document := map[string]any{"issuer": issuer, "token_endpoint": "https://auth.example.com/token"}
	maps.Copy(document, changed)
	maps.DeleteFunc(document, func(_ string, v any) bool { return v == "absent" })
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// web is a transport that answers by URL, with 404 for all others, and
// remembers what it was asked.
type web struct {
	answers map[string]string
	status  map[string]int
	header  http.Header
	asked   []string
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	address := r.URL.String()
	w.asked = append(w.asked, r.Method+" "+address)
	status := http.StatusOK
	if _, ok := w.answers[address]; !ok {
		status = http.StatusNotFound
	}
	if s, ok := w.status[address]; ok {
		status = s
	}
	return answering(status, w.header, w.answers[address])(r)
}

func metadataOf(issuer string) authserver.MetadataRequest {
	return authserver.MetadataRequest{Issuer: issuer, UserAgent: "test/1", Timeout: time.Minute}
}

// mustLack returns the error of a metadata request, which is always an *Error.
func mustLack(t *testing.T, m *authserver.Metadata, err error) *authserver.Error {
	t.Helper()
	failed, ok := errors.AsType[*authserver.Error](err)
	if !ok || m != nil {
		t.Fatalf("got metadata %v and error %v (%[2]T), want an *Error", m, err)
	}
	return failed
}

// Where the metadata of an issuer is looked for, in this order.
func TestMetadataPlaces(t *testing.T) {
	tests := []struct{ issuer, rfc8414, openID string }{
		{
			"https://example.com",
			"https://example.com/.well-known/oauth-authorization-server",
			"https://example.com/.well-known/openid-configuration",
		},
		{
			"https://example.com/",
			"https://example.com/.well-known/oauth-authorization-server",
			"https://example.com/.well-known/openid-configuration",
		},
		{ // RFC 8414 section 3.1
			"https://example.com/issuer1",
			"https://example.com/.well-known/oauth-authorization-server/issuer1",
			"https://example.com/issuer1/.well-known/openid-configuration",
		},
		{
			"https://example.com/a/b/",
			"https://example.com/.well-known/oauth-authorization-server/a/b",
			"https://example.com/a/b/.well-known/openid-configuration",
		},
		{
			"http://127.0.0.1:8080/realms/x",
			"http://127.0.0.1:8080/.well-known/oauth-authorization-server/realms/x",
			"http://127.0.0.1:8080/realms/x/.well-known/openid-configuration",
		},
	}
	for _, test := range tests {
		t.Run(test.issuer, func(t *testing.T) {
			document := published(t, test.issuer, nil)

			first := &web{answers: map[string]string{test.rfc8414: document, test.openID: document}}
			m, err := metadataOf(test.issuer).Do(t.Context(), first)
			if err != nil || m.Issuer != test.issuer {
				t.Fatalf("got %v and error %v", m, err)
			}
			checkSame(t, "what was asked", first.asked, []string{"GET " + test.rfc8414})

			second := &web{answers: map[string]string{test.openID: document}}
			m, err = metadataOf(test.issuer).Do(t.Context(), second)
			if err != nil || m.Issuer != test.issuer {
				t.Fatalf("got %v and error %v", m, err)
			}
			checkSame(t, "what was asked", second.asked, []string{"GET " + test.rfc8414, "GET " + test.openID})
		})
	}
}

func TestMetadataRequestAsSent(t *testing.T) {
	var header http.Header
	var body io.Reader
	_, err := metadataOf(issuer).Do(t.Context(), roundTrip(func(r *http.Request) (*http.Response, error) {
		header, body = r.Header, r.Body
		return answering(http.StatusOK, nil, published(t, issuer, nil))(r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, "the header", header, http.Header{"Accept": {"application/json"}, "User-Agent": {"test/1"}})
	if body != nil {
		t.Errorf("the request has a body")
	}
}

// Which members are read, and how what is odd about them is taken.
func TestMetadataMembers(t *testing.T) {
	const token = "https://auth.example.com/token"
	tests := []struct {
		name    string
		changed map[string]any
		allow   bool
		want    authserver.Metadata
	}{
		{"the least", nil, false, authserver.Metadata{TokenEndpoint: token}},
		{
			"all",
			map[string]any{
				"authorization_endpoint":                           "https://login.example.com/authorize",
				"device_authorization_endpoint":                    "https://auth.example.com/device",
				"revocation_endpoint":                              "https://auth.example.com/revoke",
				"grant_types_supported":                            []string{"client_credentials", "refresh_token"},
				"token_endpoint_auth_methods_supported":            []string{"private_key_jwt"},
				"token_endpoint_auth_signing_alg_values_supported": []string{"ES256"},
				"dpop_signing_alg_values_supported":                []string{"ES256", "EdDSA"},
				"authorization_response_iss_parameter_supported":   true,
				"mtls_endpoint_aliases": map[string]any{
					"token_endpoint":      "https://mtls.example.com/token",
					"revocation_endpoint": "https://mtls.example.com/revoke",
					"userinfo_endpoint":   "https://mtls.example.com/userinfo",
				},
				"scopes_supported": []string{"openid"},
			},
			false,
			authserver.Metadata{
				TokenEndpoint:                              token,
				AuthorizationEndpoint:                      "https://login.example.com/authorize",
				DeviceAuthorizationEndpoint:                "https://auth.example.com/device",
				RevocationEndpoint:                         "https://auth.example.com/revoke",
				GrantTypesSupported:                        []string{"client_credentials", "refresh_token"},
				TokenEndpointAuthMethodsSupported:          []string{"private_key_jwt"},
				DPoPSigningAlgValuesSupported:              []string{"ES256", "EdDSA"},
				TokenEndpointAuthSigningAlgValuesSupported: []string{"ES256"},
				AuthorizationResponseIssParameterSupported: true,
				MTLSEndpointAliases:                        map[string]string{"token_endpoint": "https://mtls.example.com/token", "revocation_endpoint": "https://mtls.example.com/revoke"},
			},
		},
		{
			"null everywhere",
			map[string]any{
				"revocation_endpoint": nil, "grant_types_supported": nil, "mtls_endpoint_aliases": nil,
				"authorization_response_iss_parameter_supported": nil,
			},
			false, authserver.Metadata{TokenEndpoint: token},
		},
		{
			"other types everywhere",
			map[string]any{
				"authorization_endpoint":                           7,
				"device_authorization_endpoint":                    []string{"https://auth.example.com/device"},
				"revocation_endpoint":                              map[string]any{},
				"grant_types_supported":                            "client_credentials",
				"token_endpoint_auth_methods_supported":            map[string]any{"private_key_jwt": true},
				"token_endpoint_auth_signing_alg_values_supported": 7,
				"dpop_signing_alg_values_supported":                true,
				"authorization_response_iss_parameter_supported":   "true",
				"mtls_endpoint_aliases":                            []string{"https://mtls.example.com/token"},
			},
			false, authserver.Metadata{TokenEndpoint: token},
		},
		{
			"other types inside",
			map[string]any{
				"grant_types_supported":                 []any{nil, 7, "refresh_token", []string{"x"}},
				"token_endpoint_auth_methods_supported": []any{},
				"mtls_endpoint_aliases":                 map[string]any{"token_endpoint": 7, "revocation_endpoint": nil},
			},
			false,
			authserver.Metadata{TokenEndpoint: token, GrantTypesSupported: []string{"refresh_token"}},
		},
		{
			"endpoints that will not do are left out",
			map[string]any{
				"authorization_endpoint":        "http://auth.example.com/authorize",
				"device_authorization_endpoint": "auth.example.com/device",
				"revocation_endpoint":           "https://auth.example.com/revoke#x",
				"mtls_endpoint_aliases":         map[string]any{"token_endpoint": "http://mtls.example.com/token"},
			},
			false, authserver.Metadata{TokenEndpoint: token},
		},
		{
			"plain http where it is allowed",
			map[string]any{"token_endpoint": "http://auth.example.com/token", "revocation_endpoint": "http://auth.example.com/revoke"},
			true, authserver.Metadata{TokenEndpoint: "http://auth.example.com/token", RevocationEndpoint: "http://auth.example.com/revoke"},
		},
		{
			"names compare with case",
			map[string]any{"TOKEN_ENDPOINT": "https://evil.example.com/token", "Issuer": "https://evil.example.com"},
			false, authserver.Metadata{TokenEndpoint: token},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := metadataOf(issuer)
			r.AllowHTTP = test.allow
			m, err := r.Do(t.Context(), answering(http.StatusOK, nil, "\xef\xbb\xbf "+published(t, issuer, test.changed)))
			if err != nil {
				t.Fatal(err)
			}
			test.want.Issuer = issuer
			if test.want.MTLSEndpointAliases == nil {
				test.want.MTLSEndpointAliases = map[string]string{}
			}
			checkSame(t, "the metadata", m, test.want)
		})
	}
}

// A mebibyte is read, and one byte more is refused.
func TestMetadataSize(t *testing.T) {
	document := published(t, issuer, nil)
	for size, ok := range map[int]bool{1 << 20: true, 1<<20 + 1: false} {
		body := document + strings.Repeat(" ", size-len(document))
		if _, err := metadataOf(issuer).Do(t.Context(), answering(http.StatusOK, nil, body)); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// Each failure is of the kind that tells whether to try again, and says how to
// go on without metadata.
func TestMetadataRefused(t *testing.T) {
	tests := []struct {
		name   string
		issuer string
		status int
		body   string
		kind   authserver.Kind
		says   []string
	}{
		{"nothing there", issuer, 404, "not found", authserver.Unreadable, []string{
			issuer + "/.well-known/oauth-authorization-server and " + issuer + "/.well-known/openid-configuration answered with status 404",
		}},
		{"forbidden", issuer, 403, "{}", authserver.Unreadable, []string{"status 403"}},
		{"redirect", issuer, 302, "", authserver.Unreadable, []string{"status 302", "redirects are not followed"}},
		{"the first redirect", issuer, 300, "", authserver.Unreadable, []string{"status 300, and redirects are not followed"}},
		{"the first status behind redirects", issuer, 400, "", authserver.Unreadable, []string{"status 400; check"}},
		{"another success", issuer, 204, "", authserver.Unreadable, []string{"status 204"}},
		{"throttled", issuer, 429, "", authserver.Unavailable, []string{"status 429"}},
		{"timed out", issuer, 408, "", authserver.Unavailable, []string{"status 408"}},
		{"failed", issuer, 500, "", authserver.Unavailable, []string{"status 500"}},
		{"down", issuer, 503, "", authserver.Unavailable, []string{"status 503"}},
		{"empty", issuer, 200, "", authserver.Unreadable, []string{"not a JSON object"}},
		{"web page", issuer, 200, "<!doctype html><title>Sign in</title>", authserver.Unreadable, []string{"not a JSON object"}},
		{"an array", issuer, 200, "[1]", authserver.Unreadable, []string{"not a JSON object"}},
		{"cut short", issuer, 200, `{"issuer":"https://auth.exa`, authserver.Unreadable, []string{"cut short"}},
		{"no issuer", issuer, 200, published(t, issuer, map[string]any{"issuer": "absent"}), authserver.Unreadable, []string{`the issuer ""`, issuer}},
		{"issuer of another type", issuer, 200, published(t, issuer, map[string]any{"issuer": 7}), authserver.Unreadable, []string{`the issuer ""`}},
		{"another issuer", issuer, 200, published(t, "https://evil.example.com", nil), authserver.Unreadable, []string{`"https://evil.example.com"`, `"` + issuer + `"`}},
		{"a slash more", issuer, 200, published(t, issuer+"/", nil), authserver.Unreadable, []string{`"` + issuer + `/"`, `"` + issuer + `"`}},
		{"another case", issuer, 200, published(t, "https://AUTH.example.com", nil), authserver.Unreadable, []string{`"https://AUTH.example.com"`}},
		{"an issuer full of control characters", issuer, 200, published(t, "\r\n\x1b[31m"+strings.Repeat("x", 9999), nil), authserver.Unreadable, []string{`"???[31mxxx`}},
		{"no token endpoint", issuer, 200, published(t, issuer, map[string]any{"token_endpoint": "absent"}), authserver.Unreadable, []string{"no token_endpoint"}},
		{"token endpoint of another type", issuer, 200, published(t, issuer, map[string]any{"token_endpoint": 7}), authserver.Unreadable, []string{"no token_endpoint"}},
		{"plain http", issuer, 200, published(t, issuer, map[string]any{"token_endpoint": "http://auth.example.com/token"}), authserver.Unreadable, []string{"its token_endpoint must use https"}},
		{"plain http to this machine", issuer, 200, published(t, issuer, map[string]any{"token_endpoint": "http://127.0.0.1/token"}), authserver.Unreadable, []string{"as the issuer does"}},
		{"plain http and capitals", "HTTPS://auth.example.com", 200, published(t, "HTTPS://auth.example.com", map[string]any{"token_endpoint": "http://localhost/token"}), authserver.Unreadable, []string{"as the issuer does"}},
		{"larger than a MiB", issuer, 200, published(t, issuer, map[string]any{"x": strings.Repeat("x", 1<<20)}), authserver.Unreadable, []string{"larger than 1048576 bytes"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := metadataOf(test.issuer).Do(t.Context(), answering(test.status, http.Header{"Location": {"https://evil.example.com"}}, test.body))
			failed := mustLack(t, m, err)
			checkKind(t, failed, test.kind)
			if failed.Status != test.status {
				t.Errorf("the status is %d, want %d", failed.Status, test.status)
			}
			text := failed.Error()
			for _, says := range append(test.says, "write 'token_endpoint' by hand") {
				if !strings.Contains(text, says) {
					t.Errorf("%q does not say %q", text, says)
				}
			}
			if len(text) > 1500 || strings.ContainsAny(text, "\r\n\x1b") {
				t.Errorf("%q does not fit a log line", text)
			}
		})
	}
}

func TestMetadataIssuerRefused(t *testing.T) {
	tests := []struct{ name, issuer, says string }{
		{"empty", "", "'issuer' must be an absolute URL"},
		{"no URL", "auth.example.com", "'issuer' must be an absolute URL"},
		{"plain http", "http://auth.example.com", "'issuer' must use https"},
		{"query", "https://auth.example.com?tenant=7", "'issuer' must not have a query"},
		{"fragment", "https://auth.example.com#x", "'issuer' must not have a fragment"},
		{"credentials", "https://user:pw@auth.example.com", "'issuer' must not hold credentials"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			transport := &web{}
			m, err := metadataOf(test.issuer).Do(t.Context(), transport)
			failed := mustLack(t, m, err)
			checkKind(t, failed, authserver.Unprepared)
			if !strings.Contains(failed.Error(), test.says) {
				t.Errorf("%q does not say %q", failed, test.says)
			}
			if len(transport.asked) != 0 {
				t.Errorf("it asked %q", transport.asked)
			}
		})
	}
}

// When the two places disagree, the one that works counts, and of two failures
// the one that says more.
func TestMetadataOfTwoPlaces(t *testing.T) {
	const first, second = issuer + "/.well-known/oauth-authorization-server", issuer + "/.well-known/openid-configuration"
	good := published(t, issuer, nil)
	wrong := published(t, "https://evil.example.com", nil)
	tests := []struct {
		name   string
		web    web
		asked  int
		kind   authserver.Kind
		status int // 0 if it works
	}{
		{"another issuer, then good", web{answers: map[string]string{first: wrong, second: good}}, 2, 0, 0},
		{"web page, then good", web{answers: map[string]string{first: "<html>", second: good}}, 2, 0, 0},
		{"failed, then good", web{answers: map[string]string{first: "", second: good}, status: map[string]int{first: 500}}, 2, 0, 0},
		{"forbidden, then good", web{answers: map[string]string{first: "", second: good}, status: map[string]int{first: 403}}, 2, 0, 0},
		{"throttled: asks no more", web{answers: map[string]string{second: good}, status: map[string]int{first: 429}}, 1, authserver.Unavailable, 429},
		{"another issuer, then nothing", web{answers: map[string]string{first: wrong}}, 2, authserver.Unreadable, 200},
		{"nothing, then another issuer", web{answers: map[string]string{second: wrong}}, 2, authserver.Unreadable, 200},
		{"nothing, then failed", web{status: map[string]int{second: 502}}, 2, authserver.Unavailable, 502},
		{"another issuer, then failed", web{answers: map[string]string{first: wrong}, status: map[string]int{second: 502}}, 2, authserver.Unavailable, 502},
		{"failed, then another issuer", web{answers: map[string]string{first: "", second: wrong}, status: map[string]int{first: 502}}, 2, authserver.Unavailable, 502},
		{"failed, then nothing", web{status: map[string]int{first: 502}}, 2, authserver.Unavailable, 502},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := metadataOf(issuer).Do(t.Context(), &test.web)
			if len(test.web.asked) != test.asked {
				t.Errorf("it asked %q, want %d requests", test.web.asked, test.asked)
			}
			if test.status == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failed := mustLack(t, m, err)
			checkKind(t, failed, test.kind)
			if failed.Status != test.status {
				t.Errorf("the status is %d, want %d: %v", failed.Status, test.status, failed)
			}
		})
	}
}

// endless is a body without end that counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	if e.read > 64<<20 {
		return 0, errors.New("read on and on")
	}
	e.read += len(p)
	return len(p), nil
}

func TestMetadataWithoutEnd(t *testing.T) {
	var body endless
	m, err := metadataOf(issuer).Do(t.Context(), roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(&body), Request: r}, nil
	}))
	checkKind(t, mustLack(t, m, err), authserver.Unreadable)
	if body.read > 4<<20 {
		t.Errorf("%d bytes were read", body.read)
	}
}

func TestMetadataRetryAfter(t *testing.T) {
	m, err := metadataOf(issuer).Do(t.Context(), answering(503, http.Header{"Retry-After": {"7"}}, ""))
	if failed := mustLack(t, m, err); failed.RetryAfter != 7*time.Second {
		t.Errorf("RetryAfter is %s, want 7s", failed.RetryAfter)
	}
}

func TestMetadataUnreachable(t *testing.T) {
	asked := 0
	m, err := metadataOf(issuer).Do(t.Context(), roundTrip(func(*http.Request) (*http.Response, error) {
		asked++
		return nil, errors.New("no route to host")
	}))
	failed := mustLack(t, m, err)
	checkKind(t, failed, authserver.Unavailable)
	if !strings.Contains(failed.Error(), "no route to host") || !strings.Contains(failed.Error(), "by hand") {
		t.Errorf("%q does not say why", failed)
	}
	if asked != 2 {
		t.Errorf("it asked %d times, want once at each place", asked)
	}
}

// What is wrong with the connection at one place says nothing about the other:
// a firewall may know only one of the paths.
func TestMetadataPastAPlaceWithoutAnswer(t *testing.T) {
	tests := []struct {
		name   string
		within time.Duration // the caller's patience; 0 if only the timeout counts
		broken roundTrip     // at the first place
	}{
		{"dropped", 0, func(*http.Request) (*http.Response, error) { return nil, io.EOF }},
		{"hanging", 0, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}},
		{"hanging, for a caller in a hurry", time.Second, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}},
		{"hanging in the middle of the answer", 0, func(r *http.Request) (*http.Response, error) {
			body, end := io.Pipe()
			context.AfterFunc(r.Context(), func() { _ = end.CloseWithError(r.Context().Err()) })
			return &http.Response{StatusCode: http.StatusOK, Body: body, Request: r}, nil
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.within > 0 {
					limited, cancel := context.WithTimeout(ctx, test.within)
					defer cancel()
					ctx = limited
				}
				m, err := metadataOf(issuer).Do(ctx, roundTrip(func(r *http.Request) (*http.Response, error) {
					if strings.HasSuffix(r.URL.Path, "/oauth-authorization-server") {
						return test.broken(r)
					}
					if err := r.Context().Err(); err != nil {
						return nil, err
					}
					return answering(http.StatusOK, nil, published(t, issuer, nil))(r)
				}))
				if err != nil || m.Issuer != issuer {
					t.Errorf("got %v and error %v", m, err)
				}
			})
		})
	}
}

// The timeout holds for both places together.
func TestMetadataTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		m, err := metadataOf(issuer).Do(t.Context(), roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		failed := mustLack(t, m, err)
		checkKind(t, failed, authserver.Unavailable)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("it took %s, want the timeout", took)
		}
		if !strings.Contains(failed.Error(), "'timeout' is 1m0s") {
			t.Errorf("%q does not name the timeout", failed)
		}
	})
}

// Over a real connection: redirects, compression, and answers that break off.
func TestMetadataOverHTTP(t *testing.T) {
	follow := make(chan string, 8)
	var server *httptest.Server
	mux := http.NewServeMux()
	serve := func(name string, answer func(w http.ResponseWriter)) {
		mux.HandleFunc("/.well-known/oauth-authorization-server/"+name, func(w http.ResponseWriter, _ *http.Request) { answer(w) })
	}
	zip := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, body)
		_ = z.Close()
	}
	document := func(name string, changed map[string]any) string {
		return published(t, server.URL+"/"+name, changed)
	}
	serve("zipped", func(w http.ResponseWriter) { zip(w, document("zipped", nil)) })
	serve("bomb", func(w http.ResponseWriter) {
		zip(w, document("bomb", map[string]any{"x": strings.Repeat("x", 8<<20)}))
	})
	serve("moved", func(w http.ResponseWriter) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	serve("cut", func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"issuer":`)
	})
	mux.HandleFunc("/elsewhere", func(_ http.ResponseWriter, r *http.Request) { follow <- r.URL.Path })
	server = httptest.NewServer(mux)
	t.Cleanup(server.Close)

	tests := []struct {
		name string
		kind authserver.Kind
		says string // empty if it works
	}{
		{"zipped", 0, ""},
		{"bomb", authserver.Unreadable, "larger than"},
		{"moved", authserver.Unreadable, "redirects are not followed"},
		{"cut", authserver.Unavailable, "broke off"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := metadataOf(server.URL+"/"+test.name).Do(context.WithoutCancel(t.Context()), newTransport(t))
			if test.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			failed := mustLack(t, m, err)
			checkKind(t, failed, test.kind)
			if !strings.Contains(failed.Error(), test.says) {
				t.Errorf("%q does not say %q", failed, test.says)
			}
		})
	}
	if len(follow) != 0 {
		t.Errorf("it followed a redirect to %s", <-follow)
	}
}

func TestMetadataTokenEndpointFor(t *testing.T) {
	with := &authserver.Metadata{TokenEndpoint: "https://a.example.com", MTLSEndpointAliases: map[string]string{"token_endpoint": "https://mtls.example.com"}}
	without := &authserver.Metadata{TokenEndpoint: "https://a.example.com", MTLSEndpointAliases: map[string]string{"revocation_endpoint": "https://mtls.example.com"}}
	tests := []struct {
		name string
		m    *authserver.Metadata
		mtls bool
		want string
	}{
		{"no certificate", with, false, "https://a.example.com"},
		{"certificate and alias", with, true, "https://mtls.example.com"},
		{"certificate without alias", without, true, "https://a.example.com"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.m.TokenEndpointFor(test.mtls); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A server that lists what it supports is believed; one that does not is not
// asked.
func TestMetadataCheck(t *testing.T) {
	m := &authserver.Metadata{
		GrantTypesSupported:               []string{"client_credentials", "refresh_token"},
		TokenEndpointAuthMethodsSupported: []string{"client_secret_basic", "private_key_jwt", "self_signed_tls_client_auth"},
		DPoPSigningAlgValuesSupported:     []string{"ES256"},

		TokenEndpointAuthSigningAlgValuesSupported: []string{"ES256", "HS512"},
	}
	key, certificate := newCertifiedKey(t, "", time.Now())
	signs := authserver.PrivateKeyJWT{Key: key} // ES256
	rsaOnly := &authserver.Metadata{TokenEndpointAuthSigningAlgValuesSupported: []string{"RS256"}}
	silent := &authserver.Metadata{}
	hostile := &authserver.Metadata{GrantTypesSupported: []string{"\r\n" + strings.Repeat("x", 9999)}}
	tests := []struct {
		name string
		err  error
		says []string // nil if it passes
	}{
		{"both listed", m.Check("private_key_jwt", "client_credentials"), nil},
		{"the raw variant of one listed", m.Check("client_secret_basic_raw", "refresh_token"), nil},
		{"self-signed certificates", m.Check("tls_client_auth", "client_credentials"), nil},
		{"assertions of someone else", m.Check("assertion_file", "client_credentials"), nil},
		{"nothing to check", m.Check("", ""), nil},
		{"DPoP listed", m.CheckProof("ES256"), nil},
		{"assertion listed", m.CheckAssertion(signs), nil},
		{"assertion by secret listed", m.CheckAssertion(authserver.ClientSecretJWT{Algorithm: "HS512"}), nil},
		{"no assertion", m.CheckAssertion(authserver.TLSClientAuth{Certificate: certificate}), nil},
		{"no list for assertions", silent.CheckAssertion(signs), nil},
		{"no lists", silent.Check("none", "urn:example:grant"), nil},
		{"no list for DPoP", silent.CheckProof("PS512"), nil},
		{"method not listed", m.Check("client_secret_post", "client_credentials"), []string{`"client_secret_post"`, "'client_auth'", "client_secret_basic, private_key_jwt", "by hand"}},
		{"public client not listed", m.Check("none", ""), []string{`"none"`}},
		{"grant not listed", m.Check("private_key_jwt", "urn:ietf:params:oauth:grant-type:jwt-bearer"), []string{`"urn:ietf:params:oauth:grant-type:jwt-bearer"`, "'grant'", "client_credentials, refresh_token"}},
		{"DPoP not listed", m.CheckProof("EdDSA"), []string{`"EdDSA"`, "'dpop'", "ES256"}},
		{"assertion not listed", rsaOnly.CheckAssertion(signs), []string{`"ES256"`, "the 'algorithm' or key of 'client_auth'", "RS256", "by hand"}},
		{"assertion by secret not listed", m.CheckAssertion(authserver.ClientSecretJWT{}), []string{`"HS256"`, "ES256, HS512"}},
		{"a hostile list", hostile.Check("none", "client_credentials"), []string{"??xxx"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.says == nil {
				if test.err != nil {
					t.Error(test.err)
				}
				return
			}
			failed, ok := errors.AsType[*authserver.Error](test.err)
			if !ok {
				t.Fatalf("got error %v, want an *Error", test.err)
			}
			checkKind(t, failed, authserver.Unprepared)
			for _, says := range test.says {
				if !strings.Contains(failed.Error(), says) {
					t.Errorf("%q does not say %q", failed, says)
				}
			}
			if len(failed.Error()) > 1000 {
				t.Errorf("%q does not fit a log line", failed)
			}
		})
	}
}
