package tokensource

import (
	"maps"
	"net/http"
	"net/url"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// TestMembersKept: of an answer's members a token keeps those that the config
// exposes, however it is fetched.
func TestMembersKept(t *testing.T) {
	const answer = `{"access_token":"T","refresh_token":"R","instance_url":"https://eu1.example","id":"https://login.example/alice","expires_in":60}`
	for name, grant := range map[string]*config.Grant{
		"client_credentials": nil,
		"refresh_token":      {Type: "refresh_token", RefreshToken: "first"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, row := range []struct {
				expose []string
				want   map[string]string
			}{
				{nil, nil},
				{[]string{"instance_url"}, map[string]string{"instance_url": "https://eu1.example"}},
				{[]string{"instance_url", "not_there"}, map[string]string{"instance_url": "https://eu1.example"}},
			} {
				var forms []url.Values
				source := newSource(t, config.Client{
					TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
					Grant: grant, Expose: row.expose,
				}, answering(t, &forms, func(url.Values) (int, string) { return http.StatusOK, answer }))

				token, err := source.Fetch(t.Context(), nil, nil)

				if err != nil {
					t.Fatal(err)
				}
				if got := textOf(token.Members); !maps.Equal(got, row.want) {
					t.Errorf("with expose %q it keeps %q, want %q", row.expose, got, row.want)
				}
			}
		})
	}
}

// TestMembersOutliveARefresh whose answer does not repeat them.
func TestMembersOutliveARefresh(t *testing.T) {
	answers := []string{
		`{"access_token":"T1","refresh_token":"R1","instance_url":"https://eu1.example"}`,
		`{"access_token":"T2","refresh_token":"R2"}`,
		`{"access_token":"T3","refresh_token":"R3","instance_url":"https://eu2.example"}`,
	}
	var forms []url.Values
	source := newSource(t, config.Client{
		TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
		Grant: &config.Grant{Type: "refresh_token", RefreshToken: "first"}, Expose: []string{"instance_url"},
	}, answering(t, &forms, func(url.Values) (int, string) { return http.StatusOK, answers[len(forms)-1] }))

	first, _ := source.Fetch(t.Context(), nil, nil)
	second, _ := source.Fetch(t.Context(), nil, first)
	third, _ := source.Fetch(t.Context(), nil, second)

	for i, token := range []struct {
		got  string
		want string
	}{
		{first.Members["instance_url"].Reveal(), "https://eu1.example"},
		{second.Members["instance_url"].Reveal(), "https://eu1.example"},
		{third.Members["instance_url"].Reveal(), "https://eu2.example"},
	} {
		if token.got != token.want {
			t.Errorf("token %d has %q, want %q", i+1, token.got, token.want)
		}
	}
}
