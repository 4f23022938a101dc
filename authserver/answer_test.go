package authserver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
	bom      = "\xef\xbb\xbf"
)

// Answers that hold a token, in the shapes that servers send.
func TestAnswerWithToken(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 64<<10/16)

	tests := []struct {
		name        string
		contentType string
		body        string
		access      string
		tokenType   string
		refresh     string
	}{
		// The format is told from the body, whatever the Content-Type says.
		{"JSON", jsonType, `{"access_token":"a","token_type":"Bearer"}`, "a", "Bearer", ""},
		{"JSON with a charset", jsonType + ";charset=UTF-8", `{"access_token":"a"}`, "a", "", ""},
		{"JSON as text/plain", "text/plain", `{"access_token":"a"}`, "a", "", ""},
		{"JSON as text/html", "text/html; charset=utf-8", `{"access_token":"a"}`, "a", "", ""},
		{"JSON as a form", formType, `{"access_token":"a"}`, "a", "", ""},
		{"JSON as a problem document", "application/problem+json", `{"access_token":"a"}`, "a", "", ""},
		{"JSON without a Content-Type", "", `{"access_token":"a"}`, "a", "", ""},
		{"JSON with a Content-Type that is none", "application/;;=json", `{"access_token":"a"}`, "a", "", ""},
		{"JSON behind a byte order mark", jsonType, bom + `{"access_token":"a"}`, "a", "", ""},
		{"JSON behind white space and a byte order mark", jsonType, "\r\n" + bom + "\r\n" + `{"access_token":"a"}`, "a", "", ""},
		{"JSON in white space", jsonType, "\n\t {\n\t\"access_token\" : \"a\"\n}\r\n\r\n", "a", "", ""},
		{"form", formType, "access_token=a&token_type=bearer", "a", "bearer", ""},
		{"form as text/plain", "text/plain", "access_token=a&token_type=bearer", "a", "bearer", ""},
		{"form as JSON", jsonType, "access_token=a&token_type=bearer", "a", "bearer", ""},
		{"form without a Content-Type", "", "access_token=a&token_type=bearer", "a", "bearer", ""},
		{"form behind a byte order mark", formType, bom + "access_token=a&token_type=bearer", "a", "bearer", ""},
		{"form with a line end", formType, "access_token=a&token_type=bearer\r\n", "a", "bearer", ""},
		{"form, encoded", formType, "access_token=a%2Bb%2F%21%7Cc%3D&refresh_token=r+s%20t", "a+b/!|c=", "", "r s t"},
		{"form as GitHub sends it", formType, "access_token=gho_x&scope=repo%2Cgist&token_type=bearer", "gho_x", "bearer", ""},
		{"form with an empty error", formType, "error=&access_token=a", "a", "", ""},

		// Members that are not understood are ignored (RFC 6749 section 5.1).
		{"unknown members", jsonType, `{"ok":true,"n":1.5e9,"null":null,"scope":["a","b"],"authed_user":{"id":"U1","access_token":"evil"},"access_token":"a"}`, "a", "", ""},
		{"members of RFC 6749 in odd types", jsonType, `{"access_token":"a","scope":7,"state":false,"error_description":"all is well","error_uri":{}}`, "a", "", ""},
		{"unknown member twice", jsonType, `{"x":1,"x":2,"access_token":"a"}`, "a", "", ""},
		{"unknown member in a form twice", formType, "scope=x&scope=y&access_token=a", "a", "", ""},

		// An error member that says that there is none.
		{"error false", jsonType, `{"error":false,"access_token":"a"}`, "a", "", ""},
		{"error 0", jsonType, `{"error":0,"access_token":"a"}`, "a", "", ""},
		{"error null", jsonType, `{"error":null,"access_token":"a"}`, "a", "", ""},
		{"error empty string", jsonType, `{"error":"","access_token":"a"}`, "a", "", ""},
		{"error empty object", jsonType, `{"error":{},"access_token":"a"}`, "a", "", ""},
		{"error empty list", jsonType, `{"error":[],"access_token":"a"}`, "a", "", ""},
		{"error null with a description", jsonType, `{"error":null,"error_description":null,"access_token":"a"}`, "a", "", ""},

		// Names compare with case: x/oauth2 lets ACCESS_TOKEN win.
		{"case variant after access_token", jsonType, `{"access_token":"a","ACCESS_TOKEN":"evil"}`, "a", "", ""},
		{"case variant before access_token", jsonType, `{"Access_Token":"evil","access_token":"a"}`, "a", "", ""},
		{"case variant of token_type", jsonType, `{"access_token":"a","Token_Type":"mac"}`, "a", "", ""},
		{"case variant of error", jsonType, `{"access_token":"a","Error":"invalid_client","ERROR":"x"}`, "a", "", ""},
		{"case variant of refresh_token", jsonType, `{"access_token":"a","Refresh_Token":"evil"}`, "a", "", ""},

		// The same member twice with one value leaves nothing open.
		{"access_token twice alike", jsonType, `{"access_token":"a","access_token":"a"}`, "a", "", ""},
		{"token_type twice alike in a form", formType, "access_token=a&token_type=bearer&token_type=bearer", "a", "bearer", ""},

		// Whatever is visible ASCII is a token: Salesforce has "!", others "|".
		{"token with every visible character", jsonType, `{"access_token":"!\"#$%&'()*+,-./0123456789:;<=>?@[\\]^_` + "`" + `{|}~"}`, "!\"#$%&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~", "", ""},
		{"token with JSON escapes", jsonType, `{"access_token":"\u0061\u002fb\/c"}`, "a/b/c", "", ""},
		{"token of 64 KiB", jsonType, `{"access_token":"` + long + `"}`, long, "", ""},

		// The type is handed on as it was spelled; who injects it decides.
		{"token_type absent", jsonType, `{"access_token":"a"}`, "a", "", ""},
		{"token_type null", jsonType, `{"access_token":"a","token_type":null}`, "a", "", ""},
		{"token_type empty", jsonType, `{"access_token":"a","token_type":""}`, "a", "", ""},
		{"token_type in capitals", jsonType, `{"access_token":"a","token_type":"BEARER"}`, "a", "BEARER", ""},
		{"token_type of Apigee", jsonType, `{"access_token":"a","token_type":"BearerToken"}`, "a", "BearerToken", ""},
		{"token_type DPoP", jsonType, `{"access_token":"a","token_type":"DPoP"}`, "a", "DPoP", ""},
		{"token_type in white space", jsonType, `{"access_token":"a","token_type":" Bearer\r\n"}`, "a", "Bearer", ""},
		{"token_type of white space", jsonType, `{"access_token":"a","token_type":"  "}`, "a", "", ""},
		{"token_type of eBay", jsonType, `{"access_token":"a","token_type":"Application Access Token"}`, "a", "Application Access Token", ""},
		{"token_type N_A", jsonType, `{"access_token":"a","token_type":"N_A"}`, "a", "N_A", ""},

		// Without a new refresh token the old one stays (RFC 6749 section 6);
		// one in the wrong JSON type is too precious to lose.
		{"refresh_token", jsonType, `{"access_token":"a","refresh_token":"r"}`, "a", "", "r"},
		{"refresh_token absent", jsonType, `{"access_token":"a"}`, "a", "", ""},
		{"refresh_token empty", jsonType, `{"access_token":"a","refresh_token":""}`, "a", "", ""},
		{"refresh_token null", jsonType, `{"access_token":"a","refresh_token":null}`, "a", "", ""},
		{"refresh_token a number", jsonType, `{"access_token":"a","refresh_token":42}`, "a", "", "42"},
		{"refresh_token a number beyond 64 bits", jsonType, `{"access_token":"a","refresh_token":123456789012345678901234567890}`, "a", "", "123456789012345678901234567890"},
		{"refresh_token false", jsonType, `{"access_token":"a","refresh_token":false}`, "a", "", ""},
		{"refresh_token an object", jsonType, `{"access_token":"a","refresh_token":{"v":"r"}}`, "a", "", ""},
		{"refresh_token with CR LF", jsonType, `{"access_token":"a","refresh_token":"r\r\n"}`, "a", "", ""},
		{"refresh_token with an umlaut", jsonType, `{"access_token":"a","refresh_token":"ü"}`, "a", "", ""},
		{"refresh_token with every visible character at the ends", jsonType, `{"access_token":"a","refresh_token":"!~"}`, "a", "", "!~"},
		{"refresh_token with DEL", jsonType, `{"access_token":"a","refresh_token":"r\u007f"}`, "a", "", ""},
		{"refresh_token with a space", jsonType, `{"access_token":"a","refresh_token":"r s"}`, "a", "", "r s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(test.contentType), test.body))
			token = mustSucceed(t, token, err)
			if got := token.AccessToken.Reveal(); got != test.access {
				t.Errorf("access token %.80q, want %.80q", got, test.access)
			}
			if token.Type != test.tokenType {
				t.Errorf("type %q, want %q", token.Type, test.tokenType)
			}
			if got := token.RefreshToken.Reveal(); got != test.refresh {
				t.Errorf("refresh token %q, want %q", got, test.refresh)
			}
			if got := token.RefreshToken.IsZero(); got != (test.refresh == "") {
				t.Errorf("refresh token empty: %t", got)
			}
		})
	}
}

// A server may answer 201, as GitHub does for its apps, or another 2xx.
func TestAnswerWithTokenAndStatus(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNonAuthoritativeInfo} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(status, contentType(jsonType), `{"access_token":"a"}`))
			if got := mustSucceed(t, token, err).AccessToken.Reveal(); got != "a" {
				t.Errorf("access token %q, want a", got)
			}
		})
	}
}

// Answers with status 200 that are no token, or one that must not be used.
func TestAnswerWithoutToken(t *testing.T) {
	tests := []struct {
		name string
		body string
		want string // what the error says
	}{
		{"empty", "", "is empty"},
		{"white space", " \r\n\t", "is empty"},
		{"byte order mark alone", bom, "is empty"},
		{"web page", "<!DOCTYPE html><html><body>Sign in</body></html>", "web page"},
		{"XML", "<?xml version=\"1.0\"?><access_token>a</access_token>", "web page"},
		{"text", "Hello", "neither a JSON object nor a form"},
		{"a token and nothing else", "eyJhbGciOiJub25lIn0.e30.", "neither a JSON object nor a form"},
		{"bytes", "\x00\x01\x02\xff\xfe", "neither a JSON object nor a form"},
		{"gzip left as it came", "\x1f\x8b\x08\x00\x00\x00\x00\x00", "neither a JSON object nor a form"},
		{"UTF-16", "\xff\xfe{\x00\"\x00a\x00", "neither a JSON object nor a form"},
		{"a JSON string", `"access_token"`, "neither a JSON object nor a form"},
		{"a JSON list", `[{"access_token":"a"}]`, "neither a JSON object nor a form"},
		{"a JSON null", `null`, "neither a JSON object nor a form"},
		{"a JSON number", `1`, "neither a JSON object nor a form"},
		{"form without a token", "token_type=bearer&expires_in=3600", "neither a JSON object nor a form"},
		{"form with an empty token", "access_token=&token_type=bearer", "neither a JSON object nor a form"},
		{"form with a broken escape", "access_token=%zz", "neither a JSON object nor a form"},
		{"form with a semicolon", "access_token=a;token_type=bearer", "neither a JSON object nor a form"},

		{"JSON cut in a name", `{"access_to`, "cut short"},
		{"JSON cut behind a name", `{"access_token"`, "cut short"},
		{"JSON cut in the token", `{"access_token":"a`, "cut short"},
		{"JSON cut behind the token", `{"access_token":"a"`, "cut short"},
		{"JSON cut behind a comma", `{"access_token":"a",`, "cut short"},
		{"JSON with a comma too many", `{"access_token":"a",}`, "not valid JSON"},
		{"JSON with single quotes", `{'access_token':'a'}`, "not valid JSON"},
		{"JSON with a bare name", `{access_token:"a"}`, "not valid JSON"},
		{"JSON with a comment", `{"access_token":"a" /* secret */}`, "not valid JSON"},
		{"JSON with NaN", `{"access_token":"a","expires_in":NaN}`, "not valid JSON"},
		{"JSON with a line break in a string", "{\"access_token\":\"a\nb\"}", "not valid JSON"},
		{"JSON nested without end", `{"x":` + strings.Repeat("[", 100_000), "not valid JSON"},
		{"JSON with something behind it", `{"access_token":"a"} <!-- served by node 7 -->`, "something follows"},
		{"two JSON objects", `{"access_token":"a"}{"access_token":"b"}`, "something follows"},
		{"two JSON lines", "{\"access_token\":\"a\"}\n{\"access_token\":\"a\"}\n", "something follows"},

		{"JSON without members", `{}`, "no access_token"},
		{"JSON with other members", `{"token":"a","token_type":"bearer"}`, "no access_token"},
		{"JSON with the token one level down", `{"data":{"access_token":"a"}}`, "no access_token"},
		{"JSON with the token in another case", `{"ACCESS_TOKEN":"evil","Access_Token":"evil"}`, "no access_token"},
		{"access_token empty", `{"access_token":""}`, "no access_token"},
		{"access_token null", `{"access_token":null}`, "no access_token"},
		{"access_token a number", `{"access_token":12345}`, "access_token is not a string"},
		{"access_token true", `{"access_token":true}`, "access_token is not a string"},
		{"access_token an object", `{"access_token":{"value":"a"}}`, "access_token is not a string"},
		{"access_token a list", `{"access_token":["a"]}`, "access_token is not a string"},

		{"access_token of more than 64 KiB", `{"access_token":"` + strings.Repeat("a", 64<<10+1) + `"}`, "access_token is larger than 65536 bytes"},

		// Rule 14: what would break out of the header field is refused.
		{"access_token with CR LF", `{"access_token":"a\r\nX-Evil: 1"}`, "characters that do not belong in a header field"},
		{"access_token with LF", `{"access_token":"a\nb"}`, "characters that do not belong in a header field"},
		{"access_token with CR", `{"access_token":"a\rb"}`, "characters that do not belong in a header field"},
		{"access_token with a space", `{"access_token":"a b"}`, "characters that do not belong in a header field"},
		{"access_token with a trailing space", `{"access_token":"a "}`, "characters that do not belong in a header field"},
		{"access_token with a tab", `{"access_token":"a\tb"}`, "characters that do not belong in a header field"},
		{"access_token with NUL", `{"access_token":"a\u0000"}`, "characters that do not belong in a header field"},
		{"access_token with DEL", `{"access_token":"a\u007f"}`, "characters that do not belong in a header field"},
		{"access_token with an umlaut", `{"access_token":"ä"}`, "characters that do not belong in a header field"},
		{"access_token that is not UTF-8", "{\"access_token\":\"a\xff\"}", "characters that do not belong in a header field"},
		{"access_token with CR LF in a form", "access_token=a%0D%0AX-Evil:+1", "characters that do not belong in a header field"},
		{"token_type with CR LF", `{"access_token":"a","token_type":"Bearer\r\nX-Evil: 1"}`, "token_type is not a text"},
		{"token_type with an umlaut", `{"access_token":"a","token_type":"Bärer"}`, "token_type is not a text"},
		{"token_type a number", `{"access_token":"a","token_type":1}`, "token_type is not a text"},
		{"token_type a list", `{"access_token":"a","token_type":["Bearer"]}`, "token_type is not a text"},
		{"token_type an object", `{"access_token":"a","token_type":{}}`, "token_type is not a text"},

		// Which of two counts is open (RFC 8259 section 4), so neither does.
		{"access_token twice", `{"access_token":"a","access_token":"b"}`, "two different access_token members"},
		{"access_token twice in a form", "access_token=a&access_token=b", "two different access_token members"},
		{"access_token and null", `{"access_token":"a","access_token":null}`, "two different access_token members"},
		{"token_type twice", `{"access_token":"a","token_type":"bearer","token_type":"mac"}`, "two different token_type members"},
		{"refresh_token twice", `{"access_token":"a","refresh_token":"r","refresh_token":"s"}`, "two different refresh_token members"},
		{"error twice", `{"access_token":"a","error":false,"error":"invalid_client"}`, "two different error members"},
		{"access_token twice, once escaped", `{"access_token":"a","acc\u0065ss_token":"b"}`, "two different access_token members"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(jsonType), test.body))
			failed := mustFail(t, token, err)
			checkKind(t, failed, authserver.Unreadable)
			if !strings.Contains(failed.Error(), test.want) {
				t.Errorf("the error does not say %q: %v", test.want, failed)
			}
			if failed.Status != http.StatusOK || failed.Code != "" {
				t.Errorf("status %d and code %q, want 200 and none", failed.Status, failed.Code)
			}
		})
	}
}

// However an answer is cut, its beginning is not taken for the whole.
func TestAnswerCutAnywhere(t *testing.T) {
	whole := bom + `{"access_token":"abc","token_type":"Bearer","expires_in":3600,"refresh_token":"r"}`
	for n := range len(whole) {
		token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(jsonType), whole[:n]))
		checkKind(t, mustFail(t, token, err), authserver.Unreadable)
	}
	token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(jsonType), whole))
	mustSucceed(t, token, err)
}

// Answers that say no, in every shape of an error member.
func TestAnswerWithError(t *testing.T) {
	const (
		unavailable = authserver.Unavailable
		refused     = authserver.Refused
		unreadable  = authserver.Unreadable
	)
	tests := []struct {
		name   string
		status int
		body   string
		kind   authserver.Kind
		code   string
		want   string // what the error says
	}{
		// The codes of RFC 6749 section 5.2, each with its next step.
		{"invalid_client", 401, `{"error":"invalid_client"}`, refused, "invalid_client", "check 'client_id' and 'client_secret'"},
		{"invalid_request", 400, `{"error":"invalid_request"}`, refused, "invalid_request", "'token_param'"},
		{"invalid_grant", 400, `{"error":"invalid_grant"}`, refused, "invalid_grant", "supply a new one"},
		{"invalid_grant with 403", 403, `{"error":"invalid_grant"}`, refused, "invalid_grant", "supply a new one"},
		{"unauthorized_client", 400, `{"error":"unauthorized_client"}`, refused, "unauthorized_client", "'grant'"},
		{"unsupported_grant_type", 400, `{"error":"unsupported_grant_type"}`, refused, "unsupported_grant_type", "'grant'"},
		{"invalid_scope", 400, `{"error":"invalid_scope"}`, refused, "invalid_scope", "'scope'"},
		{"invalid_target", 400, `{"error":"invalid_target"}`, refused, "invalid_target", "'resource' and 'audience'"},
		{"a code of the server's own", 400, `{"error":"AADSTS7000215"}`, refused, "AADSTS7000215", "refused"},

		// An error may come with any status, and beside a token.
		{"error with 200", 200, `{"error":"incorrect_client_credentials"}`, refused, "incorrect_client_credentials", "refused"},
		{"error with 200 as a form", 200, "error=bad_verification_code&error_description=no", refused, "bad_verification_code", `"no"`},
		{"error as a form", 400, "error=invalid_client", refused, "invalid_client", "refused"},
		{"error of Slack", 200, `{"ok":false,"error":"invalid_auth"}`, refused, "invalid_auth", "refused"},
		{"error beside a token", 200, `{"access_token":"a","error":"invalid_scope"}`, refused, "invalid_scope", "refused"},
		{"error beside a token in a form", 200, "access_token=a&error=invalid_scope", refused, "invalid_scope", "refused"},

		// A code inside an object.
		{"error object with a code", 400, `{"error":{"code":"invalid_client","message":"no"}}`, refused, "invalid_client", "refused"},
		{"error object of Google", 401, `{"error":{"code":401,"message":"no","status":"UNAUTHENTICATED"}}`, refused, "UNAUTHENTICATED", "refused"},
		{"error object of Facebook", 400, `{"error":{"message":"no","type":"OAuthException","code":190}}`, refused, "OAuthException", "refused"},
		{"error object in an error object", 400, `{"error":{"error":"invalid_client"}}`, refused, "invalid_client", "refused"},
		{"error object with 200", 200, `{"error":{"code":"invalid_client"}}`, refused, "invalid_client", "refused"},

		// There is an error, but no code.
		{"error true", 200, `{"error":true,"access_token":"a"}`, refused, "", "not one"},
		{"error 1", 200, `{"error":1,"access_token":"a"}`, refused, "", "not one"},
		{"error list", 200, `{"error":["invalid_client"],"access_token":"a"}`, refused, "", "not one"},
		{"error object without a code", 200, `{"error":{"reason":"no"},"access_token":"a"}`, refused, "", "not one"},
		{"error sentence", 400, `{"error":"The client is unknown."}`, refused, "", `token answered 400 (application/json) with an error code that is not one: the server says "The client is unknown."`},
		{"error with CR LF", 400, `{"error":"invalid_client\r\nX-Evil: 1"}`, refused, "", "not one"},
		{"error in other letters", 400, `{"error":"ungültig"}`, refused, "", "not one"},
		{"error without end", 400, `{"error":"` + strings.Repeat("e", 65) + `"}`, refused, "", "not one"},
		{"error of 64 characters", 400, `{"error":"` + strings.Repeat("e", 64) + `"}`, refused, strings.Repeat("e", 64), "refused"},

		// Passing troubles.
		{"temporarily_unavailable", 400, `{"error":"temporarily_unavailable"}`, unavailable, "temporarily_unavailable", "unavailable"},
		{"server_error", 400, `{"error":"server_error"}`, unavailable, "server_error", "unavailable"},
		{"slow_down", 400, `{"error":"slow_down"}`, unavailable, "slow_down", "unavailable"},
		{"temporarily_unavailable with 200", 200, `{"error":"temporarily_unavailable"}`, unavailable, "temporarily_unavailable", "unavailable"},
		{"408", 408, "", unavailable, "", "status 408"},
		{"408 with a code", 408, `{"error":"invalid_request"}`, unavailable, "invalid_request", "status 408"},
		{"425", 425, "<html>", unavailable, "", "status 425"},
		{"throttling", 429, "", unavailable, "", "throttling"},
		{"throttling with a web page", 429, "<html>", unavailable, "", "throttling"},
		{"throttling with a code", 429, `{"error":"invalid_client"}`, unavailable, "invalid_client", "throttling"},
		{"throttling with a token", 429, `{"access_token":"a"}`, unavailable, "", "throttling"},
		{"500", 500, "", unavailable, "", "status 500"},
		{"500 with a code", 500, `{"error":"invalid_client"}`, unavailable, "invalid_client", "status 500"},
		{"500 with a token", 500, `{"access_token":"a"}`, unavailable, "", "status 500"},
		{"502 with a web page", 502, "<html>", unavailable, "", "status 502"},
		{"503", 503, "Service Unavailable", unavailable, "", "status 503"},
		{"504", 504, "", unavailable, "", "status 504"},
		{"599", 599, "", unavailable, "", "status 599"},

		// No OAuth answer at all.
		{"400 without a body", 400, "", unreadable, "", "https://auth.example.com/oauth/token answered 400 (application/json): check that 'token_endpoint' is"},
		{"400 with other JSON", 400, `{"message":"no"}`, unreadable, "", "https://auth.example.com/oauth/token answered 400 (application/json): check that 'token_endpoint' is"},
		{"400 with a token", 400, `{"access_token":"a"}`, unreadable, "", "https://auth.example.com/oauth/token answered 400 (application/json): check that 'token_endpoint' is"},
		{"400 with error false", 400, `{"error":false}`, unreadable, "", "https://auth.example.com/oauth/token answered 400 (application/json): check that 'token_endpoint' is"},
		{"401 with a web page", 401, "<html>Sign in</html>", unreadable, "", "https://auth.example.com/oauth/token answered 401 (application/json): check the path of 'token_endpoint', and what a proxy"},
		{"403 of a firewall", 403, "Access denied", unreadable, "", "https://auth.example.com/oauth/token answered 403 (application/json): check the path of 'token_endpoint', and whether a firewall"},
		{"404", 404, "404 page not found", unreadable, "", "https://auth.example.com/oauth/token answered 404 (application/json): check the path of 'token_endpoint'"},
		{"405", 405, "", unreadable, "", "https://auth.example.com/oauth/token answered 405 (application/json): check the path of 'token_endpoint'"},
		{"413", 413, "", unreadable, "", "https://auth.example.com/oauth/token answered 413 (application/json): check that 'token_endpoint' is"},
		{"418 with a cut answer", 418, `{"error":"invalid_client`, unreadable, "", "https://auth.example.com/oauth/token answered 418 (application/json): check that 'token_endpoint' is"},
		{"204", 204, "", unreadable, "", "is empty"},

		// Redirects are not followed, whatever else the answer holds.
		{"300", 300, "", unreadable, "", "redirects"},
		{"301", 301, "", unreadable, "", "redirects"},
		{"302 with a token", 302, `{"access_token":"a"}`, unreadable, "", "redirects"},
		{"303", 303, "", unreadable, "", "redirects"},
		{"304", 304, "", unreadable, "", "redirects"},
		{"307", 307, "", unreadable, "", "redirects"},
		{"308 with a code", 308, `{"error":"invalid_client"}`, unreadable, "invalid_client", "write the final address as 'token_endpoint'"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(test.status, contentType(jsonType), test.body))
			failed := mustFail(t, token, err)
			checkKind(t, failed, test.kind)
			if failed.Code != test.code {
				t.Errorf("code %q, want %q", failed.Code, test.code)
			}
			if failed.Status != test.status {
				t.Errorf("status %d, want %d", failed.Status, test.status)
			}
			if !strings.Contains(failed.Error(), test.want) {
				t.Errorf("the error does not say %q: %v", test.want, failed)
			}
		})
	}
}

// What the server says is quoted: cleaned, and no more than a line of it.
func TestAnswerIsQuoted(t *testing.T) {
	tests := []struct {
		name string
		body string
		want string
	}{
		{"a description", `{"error":"invalid_client","error_description":"Client is locked."}`, `: the server says "Client is locked."`},
		{"control characters", `{"error":"x","error_description":"a\r\nb\u0000c\u001b[31m"}`, `"a??b?c?[31m"`},
		{"the ends of what is printable", `{"error":"x","error_description":"a ~\u007fb"}`, `"a ~?b"`},
		{"quotes", `{"error":"x","error_description":"a \"b\" \\ c"}`, `"a \"b\" \\ c"`},
		{"other letters", `{"error":"x","error_description":"ungültig ☹"}`, `"ung?ltig ?"`},
		{"bytes that are no text", "error=x&error_description=a%ff%feb", `"a??b"`},
		{"an error that is no code", `{"error":{"reason":"locked"}}`, `says "{\"reason\":\"locked\"}"`},
		{"512 characters of very many", `{"error":"x","error_description":"` + strings.Repeat("long", 50_000) + `"}`, `"` + strings.Repeat("long", 128) + `"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(http.StatusBadRequest, contentType(jsonType), test.body))
			failed := mustFail(t, token, err)
			if !strings.Contains(failed.Error(), test.want) {
				t.Errorf("the error does not quote %s: %v", test.want, failed)
			}
		})
	}
}
