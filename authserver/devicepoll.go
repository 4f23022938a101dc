package authserver

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// DeviceCodeGrant is the grant_type of a device code (RFC 8628 section 3.4).
const DeviceCodeGrant = "urn:ietf:params:oauth:grant-type:device_code"

// slowDown is what each slow_down adds to the interval (RFC 8628 section 3.5).
const slowDown = 5 * time.Second

// maxPollBackoff is the longest wait that failures alone lead to: somebody may be
// looking at the screen.
const maxPollBackoff = time.Minute

// Poll makes token requests until somebody has confirmed or declined the device
// authorization, or it expires (RFC 8628 sections 3.4 and 3.5). It returns the
// token, an *Error or, when ctx ends, its error. Form may hold further
// parameters. A server that cannot be reached, is throttling or answers 5xx is
// asked again, less and less often.
//
// Before each wait, waiting is told how long it takes and what the last poll came
// to, which is nil before the first one. It may be nil itself.
func (r Request) Poll(ctx context.Context, transport http.RoundTripper, device *DeviceAuthorization, waiting func(wait time.Duration, last *Error)) (*Token, error) {
	form := url.Values{}
	maps.Copy(form, r.Form)
	form.Set("grant_type", DeviceCodeGrant)
	form.Set("device_code", device.DeviceCode.Reveal())
	r.Form = form

	pace := pollPace{interval: device.Interval, wait: device.Interval}
	var last *Error
	for {
		left := time.Until(device.ExpiresAt)
		if waiting != nil {
			waiting(max(min(pace.wait, left), 0), last)
		}
		if err := sleep(ctx, min(pace.wait, left)); err != nil {
			return nil, err
		}
		if pace.wait >= left {
			return nil, &Error{
				Kind: Refused,
				Code: "expired_token",
				Hint: deviceHints["expired_token"],
				what: "the device code expired before the authorization server issued a token for it",
			}
		}
		token, err := r.Do(ctx, transport)
		if err == nil {
			return token, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failed, ok := errors.AsType[*Error](err)
		if !ok || !pace.after(failed) {
			return nil, err
		}
		last = failed
	}
}

// pollPace is how often a server is polled.
type pollPace struct {
	interval time.Duration // what the server asks for
	wait     time.Duration // until the next poll
}

// after sets the wait after a poll that gave no token. It reports false if there
// is nothing to wait for.
func (p *pollPace) after(failed *Error) bool {
	switch {
	case failed.Code == "authorization_pending":
		p.wait = p.interval
	case failed.Code == "slow_down":
		p.interval += slowDown
		p.wait = p.interval
	case failed.Kind == Unavailable:
		p.wait = max(min(2*p.wait, maxPollBackoff), p.interval)
	default:
		return false
	}
	p.wait = max(p.wait, failed.RetryAfter)
	return true
}

// sleep waits, and returns the context's error if that ends first.
func sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// deviceHints are the next steps where a device code is refused, or comes to
// nothing.
var deviceHints = map[string]string{
	"access_denied": "sign in anew and confirm the code, as somebody who may",
	"expired_token": "sign in anew and confirm the code in time",
	"invalid_grant": "the server does not know this device code any more: sign in anew",

	"unauthorized_client":    "allow this client the device code grant at the authorization server, or sign in with a browser",
	"unsupported_grant_type": "the server issues no tokens for device codes: sign in with a browser",
}
