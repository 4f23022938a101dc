package authserver_test

import (
	"fmt"
	"net/http"
	"testing"
)

// A server that fails over one request may answer others; one that is down, or that
// throttles, does not.
func TestOfOneRequest(t *testing.T) {
	tests := []struct {
		status int
		body   string
		want   bool
	}{
		{500, "", true},
		{500, `{"error":"server_error"}`, true},
		{400, `{"error":"server_error"}`, true},
		{400, `{"error":"temporarily_unavailable"}`, false},
		{502, "", false},
		{503, "", false},
		{429, "", false},
		{408, "", false},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.status, test.body), func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(test.status, http.Header{}, test.body))
			if got := mustFail(t, token, err).OfOneRequest(); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}
