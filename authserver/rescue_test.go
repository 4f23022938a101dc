package authserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// A server that rotates refresh tokens has revoked the one before by the time it
// answers. So the new one is handed over even where the rest of the answer is of
// no use, and never in a text.
func TestRefreshTokenOfUnusableAnswer(t *testing.T) {
	const (
		rotated = "rotated-Refresh-9fGh"
		member  = `"refresh_token":"` + rotated + `"`
	)
	tests := []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"access_token missing", 200, `{` + member + `}`, rotated},
		{"access_token null", 200, `{"access_token":null,` + member + `}`, rotated},
		{"access_token empty", 200, `{"access_token":"",` + member + `}`, rotated},
		{"access_token a number", 200, `{"access_token":7,` + member + `}`, rotated},
		{"access_token an object", 200, `{"access_token":{"v":"a"},` + member + `}`, rotated},
		{"access_token a list", 200, `{"access_token":["a"],` + member + `}`, rotated},
		{"access_token with CR LF", 200, `{"access_token":"a\r\nb",` + member + `}`, rotated},
		{"access_token with an umlaut", 200, `{"access_token":"ä",` + member + `}`, rotated},
		{"access_token too large", 200, `{"access_token":"` + strings.Repeat("a", 64<<10+1) + `",` + member + `}`, rotated},
		{"access_token twice", 200, `{"access_token":"a","access_token":"b",` + member + `}`, rotated},
		{"token_type a number", 200, `{"access_token":"a","token_type":1,` + member + `}`, rotated},
		{"token_type a list", 200, `{"access_token":"a","token_type":["mac"],` + member + `}`, rotated},
		{"token_type with a line break in it", 200, `{"access_token":"a","token_type":"b\nc",` + member + `}`, rotated},
		{"token_type twice", 200, `{"access_token":"a","token_type":"mac","token_type":"x",` + member + `}`, rotated},
		{"a refresh token as access token", 200, `{"access_token":"a","issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token",` + member + `}`, rotated},
		{"created", 201, `{` + member + `}`, rotated},
		{"error false", 200, `{"error":false,` + member + `}`, rotated},
		{"a refresh token that is a number", 200, `{"refresh_token":1234567890123}`, "1234567890123"},
		{"two refresh tokens", 200, `{"access_token":"a","refresh_token":"before-9fGh","refresh_token":"` + rotated + `"}`, rotated},

		{"form without access_token", 200, "refresh_token=" + rotated + "&token_type=bearer", rotated},
		{"form with access_token twice", 200, "access_token=a&access_token=b&refresh_token=" + rotated, rotated},
		{"form with a broken escape", 200, "access_token=%zz&refresh_token=" + rotated, rotated},
		{"form with bad characters", 200, "access_token=a%0Ab&refresh_token=" + rotated, rotated},

		{"JSON cut behind it", 200, `{` + member + `,"access_token":"a`, rotated},
		{"JSON cut right behind it", 200, `{` + member, rotated},
		{"JSON cut in it", 200, `{"access_token":"a","refresh_token":"rotated-Re`, ""},
		{"JSON cut in it, a number", 200, `{"access_token":"a","refresh_token":123456`, ""},
		{"JSON with something behind it", 200, `{"access_token":"a",` + member + `} <!-- node 7 -->`, rotated},
		{"JSON with a comma too many", 200, `{"access_token":"a",` + member + `,}`, rotated},
		{"too large, behind it", 200, `{` + member + `,"access_token":"` + strings.Repeat("a", 2<<20) + `"}`, rotated},
		{"too large, a form", 200, "refresh_token=" + rotated + "&access_token=" + strings.Repeat("a", 2<<20), ""},

		{"refresh_token empty", 200, `{"refresh_token":""}`, ""},
		{"refresh_token null", 200, `{"refresh_token":null}`, ""},
		{"refresh_token with CR LF", 200, `{"refresh_token":"a\r\nb"}`, ""},
		{"refresh_token an object", 200, `{"refresh_token":{"v":"r"}}`, ""},
		{"an error", 200, `{"error":"invalid_scope",` + member + `}`, ""},
		{"an error in a broken answer", 200, `{"error":"invalid_scope",` + member, ""},
		{"a redirect", 302, `{` + member + `}`, ""},
		{"the first status behind success", 300, `{` + member + `}`, ""},
		{"the last status of success", 299, `{` + member + `}`, rotated},
		{"below success", 199, `{` + member + `}`, ""},
		{"a status of failure", 400, `{` + member + `}`, ""},
		{"a failed server", 500, `{` + member + `}`, ""},
		{"a web page", 200, `<html>refresh_token=` + rotated, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(test.status, http.Header{}, test.body))
			failed := mustFail(t, token, err)
			if got := failed.RefreshToken.Reveal(); got != test.want {
				t.Errorf("refresh token %q, want %q", got, test.want)
			}
			if text := fmt.Sprintf("%v %+v %#v", failed, *failed, *failed); strings.Contains(text, rotated) {
				t.Errorf("the refresh token stands in %s", text)
			}
		})
	}
}

// An answer whose connection breaks off may have brought the refresh token before.
func TestRefreshTokenOfBrokenAnswer(t *testing.T) {
	server := newRawServer(t, func(_ int, c *rawConn) {
		if c.readRequest() {
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + `{"refresh_token":"rotated","access_token":"a`)
		}
	})
	token, err := do(t, request(server.url), newTransport(t))
	failed := mustFail(t, token, err)
	checkKind(t, failed, authserver.Unavailable)
	if got := failed.RefreshToken.Reveal(); got != "rotated" {
		t.Errorf("refresh token %q, want rotated", got)
	}
}
