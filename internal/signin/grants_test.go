package signin_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

func withFirstRefreshToken(o *signin.Options) {
	o.Definition.Grant = &config.Grant{Type: "refresh_token", RefreshToken: "first"}
}

// TestDisconnect: the server is told first, and the grant is forgotten in any case.
func TestDisconnect(t *testing.T) {
	tests := []struct {
		name    string
		answer  string // of the revocation endpoint; "none" if there is none
		revoked bool
		err     bool
	}{
		{"revoked", `{}`, true, false},
		{"refused", `{"error":"invalid_client"}`, false, true},
		{"no revocation endpoint", "none", false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newAuthServer(t)
			server.says("/revoke", test.answer)
			if test.answer == "none" {
				delete(server.metadata, "revocation_endpoint")
			}
			var changed int
			client := server.client(t, func(o *signin.Options) { o.Changed = func([]string) { changed++ } })
			signIn(t, server, client, "")
			d, err := client.Disconnect(t.Context(), "")
			if err != nil || d.Revoked != test.revoked || (d.NotRevoked != nil) != test.err {
				t.Errorf("it came to %+v and %v", d, err)
			}
			for _, form := range server.posted("/revoke") {
				if form.Get("token") != "refresh-1" || form.Get("token_type_hint") != "refresh_token" || len(form) != 3 {
					t.Errorf("the revocation request is %v", form)
				}
			}
			if conn, err := client.Connection(t.Context(), ""); err != nil || conn.State != signin.SignInNeeded {
				t.Errorf("the connection is %+v, %v", conn, err)
			}
			if _, err := client.Disconnect(t.Context(), ""); !errors.Is(err, vault.ErrAbsent) {
				t.Errorf("once more: %v", err)
			}
			if changed != 2 {
				t.Errorf("%d changes were told, want 2", changed)
			}
		})
	}
}

// TestConfiguredTokenStaysDead: disconnected before it was ever spent.
func TestConfiguredTokenStaysDead(t *testing.T) {
	server := newAuthServer(t)
	client := server.client(t, withFirstRefreshToken)
	if d, err := client.Disconnect(t.Context(), ""); err != nil || !d.Revoked {
		t.Fatalf("it came to %+v and %v", d, err)
	}
	if got := server.posted("/revoke")[0].Get("token"); got != "first" {
		t.Errorf("revoked is %q", got)
	}
	if _, err := client.Source.Fetch(t.Context(), nil, nil); err == nil {
		t.Error("requests get a token")
	}
	if n := len(server.posted("/token")); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestImport: a refresh token that another tool had is spent once, and what follows it
// is kept.
func TestImport(t *testing.T) {
	for name, change := range map[string]func(*signin.Options){
		"of authorization_code": func(*signin.Options) {},
		"of refresh_token":      withFirstRefreshToken,
		"of an account":         withAccounts,
	} {
		t.Run(name, func(t *testing.T) {
			server := newAuthServer(t)
			client := server.client(t, change)
			account := ""
			var values []string
			if client.HasAccounts() {
				account, values = "ann", []string{"ann"}
			}
			result, err := client.Import(t.Context(), account, authserver.NewSecret("imported"), false)
			if err != nil || result.Granted != "read" || !result.Renewable {
				t.Fatalf("it came to %+v and %v", result, err)
			}
			if _, err := client.Source.Fetch(t.Context(), values, nil); err != nil {
				t.Error(err)
			}
			forms := server.posted("/token")
			if len(forms) != 1 || forms[0].Get("refresh_token") != "imported" {
				t.Errorf("the token requests are %v", forms)
			}
			if _, err := client.Import(t.Context(), account, authserver.NewSecret("another"), false); !errors.Is(err, vault.ErrAlive) {
				t.Errorf("a second one: %v", err)
			}
		})
	}
}

// TestRejectedImportLeavesTheGrant that it was to replace.
func TestRejectedImportLeavesTheGrant(t *testing.T) {
	server := newAuthServer(t)
	client := server.client(t)
	signIn(t, server, client, "")
	server.says("refresh_token", `{"error":"invalid_grant"}`)
	if _, err := client.Import(t.Context(), "", authserver.NewSecret("mistyped"), true); err == nil {
		t.Fatal("it is taken")
	}
	if token, err := client.Source.Fetch(t.Context(), nil, nil); err != nil || token.AccessToken.Reveal() != "access-1" {
		t.Errorf("requests get %v and %v", token, err)
	}
}

// TestList: what is kept, and what is missing.
func TestList(t *testing.T) {
	server := newAuthServer(t)
	partner := server.client(t)
	inVault := func(o *signin.Options) { o.Vault = partner.Vault }
	named := func(name string) func(*signin.Options) { return func(o *signin.Options) { o.Name = name } }
	accounts := server.client(t, inVault, named("accounts"), withAccounts)
	gone := server.client(t, inVault, named("gone"), func(o *signin.Options) { o.Definition.ClientID = "gone" })
	missing := server.client(t, inVault, named("missing"), func(o *signin.Options) { o.Definition.ClientID = "missing" })
	for _, account := range []string{"bob", "ann"} {
		signIn(t, server, accounts, account)
	}
	signIn(t, server, partner, "")
	signIn(t, server, gone, "")

	connections, err := signin.List(t.Context(), partner.Vault, []*signin.Client{partner, accounts, missing})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range connections {
		got = append(got, fmt.Sprintf("%s/%s %s %s", c.Client, c.Account, c.State, c.Scope))
	}
	want := []string{"accounts/ann connected read", "accounts/bob connected read", "gone/ not_in_config read", "missing/ sign_in_needed ", "partner/ connected read"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the list is\n%q, want\n%q", got, want)
	}
}
