package signin_test

import (
	"errors"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
)

// TestDevice: somebody types the code elsewhere.
func TestDevice(t *testing.T) {
	const grantType = "urn:ietf:params:oauth:grant-type:device_code"
	tests := []struct {
		name, answer, code string
	}{
		{"confirmed", `{"access_token":"access-1","expires_in":3600,"refresh_token":"refresh-1"}`, ""},
		{"denied", `{"error":"access_denied"}`, "access_denied"},
		{"expired", `{"error":"expired_token"}`, "expired_token"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newAuthServer(t)
			server.says("/device", `{"device_code":"D","user_code":"AB-CD","verification_uri":"http://127.0.0.1/device","expires_in":60}`)
			server.says(grantType, test.answer)
			client := server.client(t)
			if !client.TakesDevices(t.Context(), "") {
				t.Error("it takes no devices")
			}
			device, err := client.BeginDevice(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			device.Interval = time.Millisecond
			if asked := server.posted("/device")[0]; asked.Get("scope") != "read write" || asked.Has("grant_type") {
				t.Errorf("the device authorization request is %v", asked)
			}
			result, err := client.PollDevice(t.Context(), device, false, nil)
			conn, _ := client.Connection(t.Context(), "")
			if test.code == "" {
				if err != nil || !result.Renewable || conn.State != signin.Connected {
					t.Errorf("it came to %+v and %v: %+v", result, err, conn)
				}
				return
			}
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok || failed.Code != test.code || conn.State != signin.SignInNeeded {
				t.Errorf("it came to %v: %+v", err, conn)
			}
		})
	}
}

// TestNoDevices: not every server has codes for devices.
func TestNoDevices(t *testing.T) {
	server := newAuthServer(t)
	delete(server.metadata, "device_authorization_endpoint")
	client := server.client(t)
	if client.TakesDevices(t.Context(), "") {
		t.Error("it takes devices")
	}
	if _, err := client.BeginDevice(t.Context(), ""); err == nil {
		t.Error("it issues a code")
	}
}
