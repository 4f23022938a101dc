package authserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestTokenScope(t *testing.T) {
	tests := []struct{ name, answer, want string }{
		{"none", `{"access_token":"a"}`, ""},
		{"null", `{"access_token":"a","scope":null}`, ""},
		{"empty", `{"access_token":"a","scope":""}`, ""},
		{"as RFC 6749 section 3.3 has it", `{"access_token":"a","scope":"read write"}`, "read write"},
		{"array, as Twitch sends", `{"access_token":"a","scope":["user:read","chat:edit"]}`, "user:read chat:edit"},
		{"with commas, as GitHub sends", "access_token=a&scope=repo%2Cgist", "repo,gist"},
		{"number", `{"access_token":"a","scope":7}`, ""},
		{"with a line break", `{"access_token":"a","scope":"read\nwrite"}`, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(http.StatusOK, http.Header{}, test.answer))
			if got := mustSucceed(t, token, err).Scope; got != test.want {
				t.Errorf("scope %q, want %q", got, test.want)
			}
		})
	}
}

func TestTokenMember(t *testing.T) {
	const access, refresh = "acc-Kq8vT2mXw5Zr9Lb3", "ref-Jp7uS1lWv4Yq8Ka2"
	const answer = `{"access_token":"` + access + `","refresh_token":"` + refresh + `","id_token":"a.b.c","expires_in":3600,` +
		`"instance_url":"https://eu1.example.com","realmId":9130350000000000000001,"active":true,"ratio":1.50,"empty":"",` +
		`"device_secret":"x","registration_access_token":"x","client_secret":"x","Assertion":"x",` +
		`"token":"` + access + `","link":"https://a.example.com/?t=` + refresh + `",` +
		`"null":null,"list":["a"],"object":{"access_token":"b"},"lines":"a\r\nb","bell":"\u0007","long":"%s","name":"Zoë"}`
	tests := []struct {
		member string
		want   string
		kept   bool
	}{
		{"instance_url", "https://eu1.example.com", true},
		{"realmId", "9130350000000000000001", true},
		{"active", "true", true},
		{"ratio", "1.50", true},
		{"empty", "", true},
		{"expires_in", "3600", true},
		{"name", "Zoë", true},

		{"access_token", "", false},
		{"refresh_token", "", false},
		{"id_token", "", false},
		{"device_secret", "", false},
		{"registration_access_token", "", false},
		{"client_secret", "", false},
		{"Assertion", "", false},
		{"token", "", false},
		{"link", "", false},
		{"null", "", false},
		{"list", "", false},
		{"object", "", false},
		{"lines", "", false},
		{"bell", "", false},
		{"long", "", false},
		{"absent", "", false},
	}
	token, err := do(t, request(endpoint), answering(http.StatusOK, http.Header{}, fmt.Sprintf(answer, strings.Repeat("x", 5000))))
	mustSucceed(t, token, err)
	for _, test := range tests {
		t.Run(test.member, func(t *testing.T) {
			got, ok := token.Member(test.member)
			if got != test.want || ok != test.kept {
				t.Errorf("got %q, %t, want %q, %t", got, ok, test.want, test.kept)
			}
		})
	}
	if text := fmt.Sprintf("%v %+v", token, token.Members); strings.Contains(text, "eu1") {
		t.Errorf("members show: %s", text)
	}
}

// An answer cannot make a token take up any room it likes.
func TestTokenMembersAreBounded(t *testing.T) {
	var answer strings.Builder
	answer.WriteString(`{"access_token":"a"`)
	for n := range 10_000 {
		fmt.Fprintf(&answer, `,"m%05d":%d`, n, n)
	}
	answer.WriteString("}")
	token, err := do(t, request(endpoint), answering(http.StatusOK, http.Header{}, answer.String()))
	if n := len(mustSucceed(t, token, err).Members); n != 64 {
		t.Errorf("%d members are kept, want 64", n)
	}
}
