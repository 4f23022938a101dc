package connect

import (
	"errors"
	"net/url"
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// address is where the page is.
type address struct {
	url    string // without a slash at the end
	origin string // RFC 6454 section 6.2
	host   string // with its port, unless that is the scheme's own
	path   string // without a slash at the end
	secure bool
}

var errAddress = errors.New("must be an absolute URL without credentials, query and fragment, such as https://gateway.example.com/connect")

// parseAddress reads a base_url.
func parseAddress(text string) (address, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.User != nil, strings.ContainsAny(text, "?#"), u.Scheme != "https" && u.Scheme != "http":
		return address{}, errAddress
	case strings.Contains(text, "{"):
		return address{}, errors.New("must be written out, as the authorization server has the redirect URI that is made of it to the letter: write it without a placeholder of the request")
	case u.Scheme == "http" && !authserver.IsLoopback(u.Hostname()):
		return address{}, errors.New("must use https, as cookies and authorization codes go there: write https://")
	}
	a := address{path: strings.TrimRight(u.Path, "/"), secure: u.Scheme == "https"}
	if a.path != u.EscapedPath() && a.path+"/" != u.EscapedPath() {
		return address{}, errors.New("has a path that needs escaping: write one of letters, digits, / and -")
	}
	a.host = ownHost(u.Host, a.secure)
	a.origin = u.Scheme + "://" + a.host
	a.url = a.origin + a.path
	return a, nil
}

// ownHost spells a host as browsers do in an origin: without the scheme's own port.
func ownHost(host string, secure bool) string {
	port := ":80"
	if secure {
		port = ":443"
	}
	return strings.TrimSuffix(strings.ToLower(host), port)
}

// below returns what stands behind the base in a request's path: nothing, or something
// that begins with a slash.
func (a address) below(host, path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, a.path)
	return rest, ok && ownHost(host, a.secure) == a.host && (rest == "" || rest[0] == '/')
}
