package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// What counts where a device authorization response says nothing, or nothing
// that makes sense.
const (
	defaultPollInterval   = 5 * time.Second // RFC 8628 section 3.2
	defaultDeviceLifetime = 15 * time.Minute
)

// maxPollInterval is the longest wait between two polls that a server can ask for
// beforehand: some write milliseconds. With slow_down it can ask for more.
const maxPollInterval = time.Minute

// maxUserCode is the longest code that somebody can be asked to type.
const maxUserCode = 64

// DeviceAuthorization is what a device authorization endpoint answers (RFC 8628
// section 3.2), read and checked: the token is had by somebody who types a code
// on another device; see Request.Poll.
type DeviceAuthorization struct {
	DeviceCode Secret

	// UserCode is to be typed at VerificationURI. Both hold printable ASCII
	// characters only and are safe to show in a terminal.
	UserCode        string
	VerificationURI string

	// VerificationURIComplete holds the user code, as for a QR code; empty if the
	// server sends none.
	VerificationURIComplete string

	ExpiresAt time.Time

	// Interval is the time from one poll to the next.
	Interval time.Duration
}

// AuthorizeDevice makes a device authorization request (RFC 8628 section 3.1) and
// returns what the server answers, or an *Error. Endpoint is the device
// authorization endpoint; Form may hold scope, resource and audience.
func (r Request) AuthorizeDevice(ctx context.Context, transport http.RoundTripper) (*DeviceAuthorization, error) {
	r.Proof = nil // for token requests only (RFC 9449 section 5)
	answer, err := r.send(ctx, transport, deviceAuthorizationEndpoint)
	if failed, ok := errors.AsType[*Error](err); ok {
		failed.Hint = cmp.Or(failed.Hint, deviceHints[failed.Code])
		return nil, failed
	}
	device, err := answer.members.deviceAuthorization(isHTTPS(r.Endpoint))
	if err != nil {
		return nil, answer.unusable(err)
	}
	device.ExpiresAt = answer.requestedAt.Add(cmp.Or(answer.members.seconds("expires_in"), defaultDeviceLifetime))
	return device, nil
}

// deviceAuthorization checks the members, which are shown to somebody. secure says
// that they came by https.
func (m members) deviceAuthorization(secure bool) (*DeviceAuthorization, error) {
	deviceCode, ok := m.text("device_code")
	if !ok || deviceCode == "" {
		return nil, errors.New("it holds no device_code")
	}
	userCode, ok := m.scalar("user_code")
	if !ok || userCode == "" || len(userCode) > maxUserCode || printable(userCode) != userCode {
		return nil, errors.New("it holds no user_code that can be shown and typed")
	}
	name := "verification_uri"
	if _, ok := m["verification_url"]; ok && m[name] == nil {
		name = "verification_url" // as Google and Microsoft spell it
	}
	address, _ := m.text(name)
	if err := checkVerificationURI(address, secure); err != nil {
		return nil, fmt.Errorf("its %s %w", name, err)
	}
	complete, _ := m.text(name + "_complete")
	if checkVerificationURI(complete, secure) != nil {
		complete = ""
	}
	return &DeviceAuthorization{
		DeviceCode:              NewSecret(deviceCode),
		UserCode:                userCode,
		VerificationURI:         address,
		VerificationURIComplete: complete,
		Interval:                min(cmp.Or(m.seconds("interval"), defaultPollInterval), maxPollInterval),
	}, nil
}

// checkVerificationURI reports why somebody should not be sent to an address.
func checkVerificationURI(address string, secure bool) error {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil || !visible(address) {
		return errors.New("is not an absolute URL")
	}
	if u.Scheme == "https" || u.Scheme == "http" && !secure {
		return nil
	}
	return errors.New("must use https, as somebody signs in there")
}
