package authserver_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// What sign-in needs of the metadata.
func TestMetadataForSignIn(t *testing.T) {
	const place = issuer + "/.well-known/oauth-authorization-server"
	tests := []struct {
		name    string
		members map[string]any
		want    authserver.Metadata // besides issuer and token endpoint
	}{
		{"nothing", nil, authserver.Metadata{}},
		{
			"everything",
			map[string]any{
				"authorization_endpoint":                         "https://auth.example.com/authorize",
				"device_authorization_endpoint":                  "https://auth.example.com/device",
				"revocation_endpoint":                            "https://auth.example.com/revoke",
				"response_types_supported":                       []string{"code", "code id_token"},
				"code_challenge_methods_supported":               []string{"plain", "S256"},
				"grant_types_supported":                          []string{"authorization_code"},
				"authorization_response_iss_parameter_supported": true,
				"mtls_endpoint_aliases": map[string]string{
					"device_authorization_endpoint": "https://mtls.example.com/device",
					"revocation_endpoint":           "https://mtls.example.com/revoke",
					"authorization_endpoint":        "https://mtls.example.com/authorize",
				},
			},
			authserver.Metadata{
				AuthorizationEndpoint:                      "https://auth.example.com/authorize",
				DeviceAuthorizationEndpoint:                "https://auth.example.com/device",
				RevocationEndpoint:                         "https://auth.example.com/revoke",
				ResponseTypesSupported:                     []string{"code", "code id_token"},
				CodeChallengeMethodsSupported:              []string{"plain", "S256"},
				GrantTypesSupported:                        []string{"authorization_code"},
				AuthorizationResponseIssParameterSupported: true,
				MTLSEndpointAliases: map[string]string{
					"device_authorization_endpoint": "https://mtls.example.com/device",
					"revocation_endpoint":           "https://mtls.example.com/revoke",
				},
			},
		},
		{
			"endpoints that nobody should be sent to",
			map[string]any{
				"authorization_endpoint":                         "javascript:alert(1)",
				"device_authorization_endpoint":                  "http://auth.example.com/device",
				"revocation_endpoint":                            "http://127.0.0.1/revoke",
				"authorization_response_iss_parameter_supported": "true",
				"mtls_endpoint_aliases":                          map[string]string{"revocation_endpoint": "http://127.0.0.1/revoke"},
			},
			authserver.Metadata{},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			transport := &web{answers: map[string]string{place: published(t, issuer, test.members)}}
			got, err := metadataOf(issuer).Do(t.Context(), transport)
			if err != nil {
				t.Fatal(err)
			}
			test.want.Issuer, test.want.TokenEndpoint = got.Issuer, got.TokenEndpoint
			if test.want.MTLSEndpointAliases == nil {
				test.want.MTLSEndpointAliases = map[string]string{}
			}
			checkSame(t, "the metadata", got, test.want)
		})
	}
}

func TestMetadataEndpointsFor(t *testing.T) {
	m := &authserver.Metadata{
		DeviceAuthorizationEndpoint: "https://a.example.com/device",
		RevocationEndpoint:          "https://a.example.com/revoke",
		MTLSEndpointAliases: map[string]string{
			"device_authorization_endpoint": "https://mtls.example.com/device",
			"revocation_endpoint":           "https://mtls.example.com/revoke",
		},
	}
	tests := []struct{ name, got, want string }{
		{"device authorization", m.DeviceAuthorizationEndpointFor(false), "https://a.example.com/device"},
		{"device authorization with a certificate", m.DeviceAuthorizationEndpointFor(true), "https://mtls.example.com/device"},
		{"revocation", m.RevocationEndpointFor(false), "https://a.example.com/revoke"},
		{"revocation with a certificate", m.RevocationEndpointFor(true), "https://mtls.example.com/revoke"},
		{"neither", new(authserver.Metadata).RevocationEndpointFor(true), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.got != test.want {
				t.Errorf("got %q, want %q", test.got, test.want)
			}
		})
	}
}

func TestMetadataCheckAuthorization(t *testing.T) {
	tests := []struct {
		name string
		m    authserver.Metadata
		says []string // nil if it passes
	}{
		{"no lists", authserver.Metadata{}, nil},
		{"both listed", authserver.Metadata{ResponseTypesSupported: []string{"token", "code"}, CodeChallengeMethodsSupported: []string{"plain", "S256"}}, nil},
		{"no code", authserver.Metadata{ResponseTypesSupported: []string{"token", "code id_token"}}, []string{"the response type code", "token, code id_token", "by hand"}},
		{"plain PKCE alone", authserver.Metadata{CodeChallengeMethodsSupported: []string{"plain"}}, []string{"the PKCE method S256", "plain", "by hand"}},
		{"a hostile list", authserver.Metadata{ResponseTypesSupported: []string{"\r\n" + strings.Repeat("x", 9999)}}, []string{"??xxx"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.m.CheckAuthorization()
			if test.says == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok {
				t.Fatalf("got error %v, want an *Error", err)
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
