package caddytest

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// start starts a server, with TLS if configure gives it a config for it, and closes it
// at the end of the test.
func start(t testing.TB, handler http.Handler, configure []func(*httptest.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	for _, f := range configure {
		f(s)
	}
	if s.TLS == nil {
		s.Start()
	} else {
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}
