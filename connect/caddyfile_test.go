package connect_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/connect"
)

// TestRefusedCaddyfiles: each mistake is refused with its line and what to write
// instead.
func TestRefusedCaddyfiles(t *testing.T) {
	const (
		line1    = ", at Caddyfile:1"
		line2    = ", at Caddyfile:2"
		line3    = ", at Caddyfile:3"
		absolute = "base_url: must be an absolute URL without credentials, query and fragment, such as https://gateway.example.com/connect" + line2
		example  = "base_url https://gateway.example.com/connect\n"
	)
	tests := []struct {
		name, args, lines, want string
	}{
		{"no base_url", "", "", "base_url: is missing: write the page's address as browsers see it, such as https://gateway.example.com/connect" + line1},
		{"an empty base_url", "", `base_url ""`, "base_url has no value: write 'base_url <url>' (an unset {$NAME} leaves none)" + line2},
		{"a path", "", "base_url /connect", absolute},
		{"a query", "", "base_url https://gateway.example.com/?a=b", absolute},
		{"credentials", "", "base_url https://a:b@gateway.example.com/", absolute},
		{"plain http", "", "base_url http://gateway.example.com/connect", "base_url: must use https, as cookies and authorization codes go there: write https://" + line2},
		{"a placeholder", "", "base_url https://gateway.example.com/{http.request.host}", "base_url: must be written out, as the authorization server has the redirect URI that is made of it to the letter: write it without a placeholder of the request" + line2},
		{"a path with spaces", "", "base_url https://gateway.example.com/my%20page", "base_url: has a path that needs escaping: write one of letters, digits, / and -" + line2},
		{"two values", "", "base_url https://a.example https://b.example", "base_url has too many values: write 'base_url <url>'" + line2},
		{"twice", "", example + example, "base_url is given twice, first at Caddyfile:2: remove one" + line3},
		{"a block", "", "base_url https://a.example {\nb\n}", "base_url takes no block: write 'base_url <url>'" + line2},
		{"a literal user", "", example + "user anna", `user: "anna" is the same for everybody: write a placeholder such as {http.auth.user.id}, or 'anyone'` + line3},
		{"no user", "", example + "user", "user has no value: write 'user <placeholder>|anyone' (an unset {$NAME} leaves none)" + line3},
		{"another option", "", example + "users anyone", `upstream_oauth2_connect has no option "users": write 'base_url <url>' or 'user <placeholder>|anyone'` + line3},
		{"a client that fits no address", "a/b", example, `client "a/b" cannot be on the connect page, whose addresses have its name in them: give it one of letters, digits, - and _` + line1},
		{"a client twice", "a b a", example, `client "a" is named twice: remove one` + line1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := "upstream_oauth2_connect " + test.args + " {\n" + strings.TrimSuffix(test.lines, "\n") + "\n}\n"
			tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
			if err != nil {
				t.Fatal(err)
			}
			err = new(connect.Handler).UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
			if err == nil || err.Error() != test.want {
				t.Errorf("the error is\n%v, want\n%s", err, test.want)
			}
		})
	}
}
