package authserver_test

import (
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

func TestCheckEndpoint(t *testing.T) {
	const (
		absolute    = "must be an absolute URL"
		credentials = "must not hold credentials"
		fragment    = "must not have a fragment"
		https       = "must use https"
		scheme      = "must be an https URL"
	)
	tests := []struct {
		name      string
		url       string
		want      string // of the error; "" for none
		allowHTTP string // the same with allow_http
	}{
		{"https", "https://auth.example.com/oauth/token", "", ""},
		{"https in capitals", "HTTPS://AUTH.EXAMPLE.COM/oauth/token", "", ""},
		{"https with a port", "https://auth.example.com:8443/token", "", ""},
		{"https without a path", "https://auth.example.com", "", ""},
		{"https with a query", "https://auth.example.com/token?tenant=a&v=2", "", ""},
		{"https to an IPv6 address", "https://[2001:db8::1]/token", "", ""},
		{"https to this machine", "https://127.0.0.1/token", "", ""},

		{"http", "http://auth.example.com/token", https, ""},
		{"http to an address", "http://10.0.0.1/token", https, ""},
		{"http to all addresses", "http://0.0.0.0/token", https, ""},
		{"http to the metadata service", "http://169.254.169.254/token", https, ""},
		{"http to an IPv6 address", "http://[2001:db8::1]/token", https, ""},

		{"http to localhost", "http://localhost:8081/token", "", ""},
		{"http to localhost in capitals", "http://LocalHost:8081/token", "", ""},
		{"http to localhost with its root", "http://localhost.:8081/token", "", ""},
		{"http to a name under localhost", "http://auth.localhost/token", https, ""},
		{"http to 127.0.0.1", "http://127.0.0.1/token", "", ""},
		{"http to 127.1.2.3", "http://127.1.2.3:8081/token", "", ""},
		{"http to ::1", "http://[::1]:8081/token", "", ""},
		{"http to 127.0.0.1 in IPv6", "http://[::ffff:127.0.0.1]/token", "", ""},
		{"http to what looks like localhost in front", "http://localhost.example.com/token", https, ""},
		{"http to what looks like localhost behind", "http://notlocalhost/token", https, ""},
		{"http to what looks like 127.0.0.1", "http://127.0.0.1.example.com/token", https, ""},
		{"http to localhost as a user", "http://localhost@auth.example.com/token", credentials, credentials},

		{"fragment", "https://auth.example.com/token#part", fragment, fragment},
		{"empty fragment", "https://auth.example.com/token#", fragment, fragment},
		{"user", "https://" + clientID + "@auth.example.com/token", credentials, credentials},
		{"user and password", "https://app:Hunter2Hunter2@auth.example.com/token", credentials, credentials},

		{"empty", "", absolute, absolute},
		{"path", "/oauth/token", absolute, absolute},
		{"host and path", "auth.example.com/oauth/token", absolute, absolute},
		{"host and port", "auth.example.com:443", absolute, absolute},
		{"no scheme", "//auth.example.com/token", scheme, scheme},
		{"no host", "https:///token", absolute, absolute},
		{"a port without a host", "https://:443/token", absolute, absolute},
		{"a port that is none", "https://auth.example.com:port/token", absolute, absolute},
		{"opaque", "https:auth.example.com/token", absolute, absolute},
		{"a broken escape", "https://auth.example.com/%zz", absolute, absolute},
		{"a line break", "https://auth.example.com/token\r\n", absolute, absolute},
		{"a space in the host", "https://auth example.com/token", absolute, absolute},
		{"a placeholder", "{env.TOKEN_ENDPOINT}", absolute, absolute},
		{"ftp", "ftp://auth.example.com/token", scheme, scheme},
		{"file", "file:///run/token", absolute, absolute},
		{"ws", "ws://localhost/token", scheme, scheme},
	}
	check := func(t *testing.T, err error, want string) {
		t.Helper()
		switch {
		case want == "" && err != nil:
			t.Errorf("refused: %v", err)
		case want != "" && err == nil:
			t.Errorf("let in, want %q", want)
		case want != "" && !strings.HasPrefix(err.Error(), want):
			t.Errorf("refused with %q, want %q", err, want)
		case err != nil && strings.Contains(err.Error(), "Hunter2"):
			t.Errorf("the error shows the password: %v", err)
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, authserver.CheckEndpoint(test.url, false), test.want)
			check(t, authserver.CheckEndpoint(test.url, true), test.allowHTTP)
		})
	}
}
