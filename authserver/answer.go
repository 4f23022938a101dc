package authserver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAccessToken is how large an access token may be. No server takes a header
// field as large, and one is held for each account.
const maxAccessToken = 64 << 10

// answer is what an endpoint answers over HTTP, or what a browser brings from the
// authorization endpoint: that has members, and no URL, status, header and body.
type answer struct {
	from        endpoint
	url         string    // where it came from, fit for an error text
	requestedAt time.Time // when the request went out

	status  int
	header  http.Header
	body    []byte
	members members // what the answer says; of a body, once it is read

	// secrets are redacted in all that is quoted from the answer.
	secrets []string
}

// read reads the answer as RFC 6749 sections 5.1 and 5.2 describe it, and as
// liberally as servers need: the format is told from the body, whatever the
// Content-Type says; members that are not understood are ignored; an error may
// come with any status. It fails unless the server grants what was asked.
func (a *answer) read() error {
	found, err := readMembers(a.body, a.from)
	if err == nil { // nothing is decided by what stands in a broken answer
		a.members = found
	}

	if a.status >= 300 && a.status < 400 {
		return a.fail(Unreadable, fmt.Sprintf("the authorization server redirects (status %d), and redirects are not followed: write the final address as '%s'", a.status, a.from.option))
	}
	if a.status == http.StatusTooManyRequests {
		return a.fail(Unavailable, "the authorization server is throttling (status 429)")
	}
	if isTransient(a.status) {
		return a.fail(Unavailable, fmt.Sprintf("the authorization server failed (status %d)", a.status))
	}
	if a.members.isError() {
		return a.refused()
	}
	if a.status < 200 || a.status >= 400 {
		return a.withoutCode()
	}
	if err != nil && a.from.answer != "" {
		failed := a.fail(Unreadable, fmt.Sprintf("the answer of %s (status %d, %s, %d bytes) is not %s: %s",
			a.url, a.status, a.mediaType(), len(a.body), a.from.answer, redact(err.Error(), a.secrets)))
		failed.RefreshToken = a.refreshToken(found)
		return failed
	}
	return nil
}

// token returns the token in the answer.
func (a *answer) token() (*Token, error) {
	token, err := a.members.token()
	if err != nil {
		return nil, a.unusable(err)
	}
	switch strings.ToLower(token.Type) {
	case "", "bearer", "bearertoken", "dpop":
	default: // it may be quoted to an operator
		token.Type = redact(token.Type, append(a.secrets, a.members.issued()...))
	}
	token.RequestedAt = a.requestedAt
	return token, nil
}

// unusable is the error for an answer that grants what was asked, in a way that
// is of no use.
func (a *answer) unusable(err error) *Error {
	failed := a.fail(Unreadable, "the authorization server's answer cannot be used: "+redact(err.Error(), a.secrets))
	failed.RefreshToken = a.refreshToken(a.members)
	return failed
}

// incomplete is the error for an answer whose body could not be read to its end.
func (a *answer) incomplete(err error, timeout time.Duration) *Error {
	failed := unreachable(fmt.Errorf("its answer broke off: %w", err), timeout, a.secrets)
	if errors.Is(err, errTooLarge) {
		failed = &Error{Kind: Unreadable, Status: a.status, what: "the authorization server's answer is " + err.Error()}
	}
	// A JSON string has an end that can be seen; a form's value has none.
	if body := trim(a.body); len(body) > 0 && body[0] == '{' {
		found, _ := readJSON(body)
		failed.RefreshToken = a.refreshToken(found)
	}
	return failed
}

// refreshToken returns the refresh token of an answer of success whose access
// token is of no use. A server that rotates refresh tokens revokes the grant if
// the one before is used again.
func (a *answer) refreshToken(found members) Secret {
	if a.status < 200 || a.status >= 300 || found.isError() {
		return Secret{}
	}
	return NewSecret(found.refreshToken())
}

// isTransient reports whether a status says that the same request may succeed
// later: the server's own failures, and 408 and 425, which are about how a request
// arrived (RFC 9110 section 15.5.9, RFC 8470 section 5.2).
func isTransient(status int) bool {
	return status >= 500 || status == http.StatusRequestTimeout || status == http.StatusTooEarly
}

// refused is the error for an answer with an OAuth error code.
func (a *answer) refused() *Error {
	code := errorCode(a.members.code(), a.secrets)
	if transient[code] {
		return a.fail(Unavailable, fmt.Sprintf("the authorization server is unavailable (%s)", code))
	}
	if code == "" {
		return a.fail(Refused, a.heading()+" with an error code that is not one")
	}
	return a.fail(Refused, fmt.Sprintf("the authorization server refused the %s (%s)", a.from.request, code))
}

// withoutCode is the error for a status of failure without an OAuth error code: it
// was a web server or a proxy that said no, most often.
func (a *answer) withoutCode() *Error {
	failed := a.fail(Unreadable, a.heading())
	option := a.from.option
	check := fmt.Sprintf("check that '%s' is the %s of this server", option, strings.ReplaceAll(option, "_", " "))
	switch a.status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		check = fmt.Sprintf("check the path of '%s'", option)
	case http.StatusUnauthorized:
		check = fmt.Sprintf("check the path of '%s', and what a proxy in front of the server asks for", option)
	case http.StatusForbidden:
		check = fmt.Sprintf("check the path of '%s', and whether a firewall in front of the server turns this machine away", option)
	}
	if failed.said == "" {
		failed.what += ": " + check
	} else {
		failed.remedy = check
	}
	return failed
}

func (a *answer) fail(kind Kind, what string) *Error {
	secrets := append(a.secrets, a.members.issued()...)
	code := errorCode(a.members.code(), secrets)
	said, _ := a.members.text("error_description")
	if said == "" && code == "" && a.members.isError() {
		said = cmp.Or(a.members.code(), string(a.members["error"]))
	}
	return &Error{
		Kind:       kind,
		Code:       code,
		URL:        a.url,
		Status:     a.status,
		RetryAfter: retryAfter(a.status, a.header, time.Now()),
		what:       what,
		said:       redact(said, secrets),
	}
}

// heading says who answered, and in what way.
func (a *answer) heading() string {
	if a.status == 0 { // a browser brought it
		return "the authorization server answered"
	}
	return fmt.Sprintf("%s answered %d (%s)", a.url, a.status, a.mediaType())
}

// mediaType returns the Content-Type, fit for an error text.
func (a *answer) mediaType() string {
	t, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		return "no content type"
	}
	return redact(t, a.secrets)
}

// members are the top-level members of an answer, each as raw JSON. Names
// compare with case, as RFC 6749 has them; encoding/json alone would take
// ACCESS_TOKEN for access_token.
type members map[string]json.RawMessage

var byteOrderMark = []byte("\xef\xbb\xbf")

// trim takes white space and a byte order mark off an answer.
func trim(body []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(body), byteOrderMark))
}

// readMembers tells a JSON object from a form by its first character. With an
// error, it returns the members that could be read all the same.
func readMembers(body []byte, from endpoint) (members, error) {
	body = trim(body)
	if len(body) == 0 {
		return nil, errors.New("it is empty")
	}
	if body[0] == '{' {
		return readJSON(body)
	}
	if body[0] == '<' {
		return nil, fmt.Errorf("it is a web page: check '%s'", from.option)
	}
	return readForm(string(body), from)
}

func readJSON(body []byte) (members, error) {
	notValid := errors.New("it is not valid JSON, or cut short")
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is not valid JSON")
	}
	m := make(members)
	var ambiguous error
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return m, notValid
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return m, notValid
		}
		if value[0] != '"' && d.InputOffset() == int64(len(body)) {
			return m, notValid // a number may have lost its last digits
		}
		ambiguous = cmp.Or(ambiguous, m.add(name.(string), value))
	}
	if _, err := d.Token(); err != nil {
		return m, notValid
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("something follows the JSON object")
	}
	return m, ambiguous
}

// readForm reads what GitHub and others send where no Accept header asks for
// JSON: application/x-www-form-urlencoded.
func readForm(body string, from endpoint) (members, error) {
	form, err := url.ParseQuery(body)
	m := make(members)
	var ambiguous error
	for name, values := range form {
		for _, v := range values {
			value, _ := json.Marshal(v)
			ambiguous = cmp.Or(ambiguous, m.add(name, value))
		}
	}
	if err != nil || form.Get(from.member) == "" && form.Get("error") == "" {
		return m, fmt.Errorf("it is neither a JSON object nor a form with %s", from.member)
	}
	return m, ambiguous
}

// add refuses a member that comes twice with two values: RFC 8259 section 4
// leaves open which one counts, so a reader and a writer may disagree. The
// later one is kept, as most readers do. Of two lifetimes the smaller one is safe.
func (m members) add(name string, value json.RawMessage) error {
	before, twice := m[name]
	m[name] = value
	if !twice || bytes.Equal(before, value) {
		return nil
	}
	switch name {
	case "expires_in":
		if life := secondsOf(before); life > 0 && (secondsOf(value) == 0 || life < secondsOf(value)) {
			m[name] = before
		}
	case "access_token", "token_type", "refresh_token", "error":
		return fmt.Errorf("it has two different %s members", name)
	}
	return nil
}

// text returns a member that is a string; ok is false if it is something else.
// An absent one and null are "".
func (m members) text(name string) (s string, ok bool) {
	raw, present := m[name]
	if !present || string(raw) == "null" {
		return "", true
	}
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// issued returns the credentials in the answer, which may stand elsewhere in it
// as well.
func (m members) issued() []string {
	var issued []string
	for _, name := range []string{"access_token", "refresh_token", "id_token", "device_code"} {
		if token, _ := m.text(name); len(token) >= minPiece {
			issued = append(issued, token)
		}
	}
	return issued
}

// isError tells whether the error member says that there is one. Servers send
// false, 0, null and "" along with a good token.
func (m members) isError() bool {
	switch e := string(bytes.TrimSpace(m["error"])); e {
	case "", "null", "false", "0", `""`, "{}", "[]":
		return false
	}
	return true
}

// code returns the OAuth error code, also out of an error object as some
// servers send it; empty if there is none.
func (m members) code() string {
	if !m.isError() {
		return ""
	}
	code, ok := m.text("error")
	if ok {
		return code
	}
	var object members
	if json.Unmarshal(m["error"], &object) == nil {
		for _, name := range []string{"code", "error", "type", "status"} {
			if code, ok := object.text(name); ok && code != "" {
				return code
			}
		}
	}
	return ""
}

// token checks the members before anything can be cached.
func (m members) token() (*Token, error) {
	access, ok := m.text("access_token")
	if !ok {
		return nil, errors.New("access_token is not a string")
	}
	if access == "" {
		return nil, errors.New("it holds no access_token")
	}
	if len(access) > maxAccessToken {
		return nil, fmt.Errorf("access_token is larger than %d bytes", maxAccessToken)
	}
	if !visible(access) {
		return nil, errors.New("access_token holds characters that do not belong in a header field")
	}
	// A type of several words is none that can be a scheme, but the token may go
	// elsewhere than behind one: eBay says "Application Access Token".
	tokenType, ok := m.text("token_type")
	tokenType = strings.TrimSpace(tokenType)
	if !ok || printable(tokenType) != tokenType {
		return nil, errors.New("token_type is not a text of ASCII characters")
	}
	// The access_token of a token exchange may hold another kind of token. That
	// kind is a credential for the authorization server alone.
	if issued, _ := m.text("issued_token_type"); issued == "urn:ietf:params:oauth:token-type:refresh_token" {
		return nil, errors.New("it holds a refresh token as access_token, by its issued_token_type: write 'requested_token_type access_token'")
	}
	token := NewToken(access, tokenType)
	token.Lifetime = m.lifetime(time.Now())
	token.RenewIn = m.renewIn(token.Lifetime)
	token.RefreshToken = NewSecret(m.refreshToken())
	token.Scope = m.scope()
	token.Members = m.others()
	return token, nil
}

// refreshToken also takes a number, in the digits it was written with: losing
// a rotated refresh token over its JSON type would cost the grant. One that
// could not be sent back (RFC 6749 appendix A.17) counts as none.
func (m members) refreshToken() string {
	s, ok := m.text("refresh_token")
	if !ok {
		var n json.Number
		if json.Unmarshal(m["refresh_token"], &n) != nil {
			return ""
		}
		return n.String()
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return ""
	}
	return s
}

// visible reports whether s consists of %x21-7E.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
