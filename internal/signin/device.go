package signin

import (
	"context"
	"maps"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// Device is a sign-in that has begun with a code to be typed on another device.
type Device struct {
	*authserver.DeviceAuthorization

	prepared *tokensource.SignIn
	values   []string
}

// TakesDevices reports whether the server has a device authorization endpoint, as far
// as that can be found out.
func (c *Client) TakesDevices(ctx context.Context, account string) bool {
	values, err := c.values(account)
	if err != nil || !c.Definition.NeedsSignIn() {
		return false
	}
	p, err := c.Source.SignIn(ctx, values)
	return err == nil && p.Settings.DeviceAuthorizationEndpoint != "" &&
		(p.Metadata == nil || p.Metadata.Check("", authserver.DeviceCodeGrant) == nil)
}

// BeginDevice has the server issue a code (RFC 8628).
func (c *Client) BeginDevice(ctx context.Context, account string) (*Device, error) {
	if !c.Definition.NeedsSignIn() {
		return nil, useErrorf("client %q has the grant %s, for which nobody signs in with a device", c.Name, c.Definition.GrantType())
	}
	values, err := c.values(account)
	if err != nil {
		return nil, err
	}
	p, err := c.Source.SignIn(ctx, values)
	if err != nil {
		return nil, err
	}
	if p.Settings.DeviceAuthorizationEndpoint == "" {
		return nil, useErrorf("the authorization server has no device authorization endpoint: sign in with a browser, or write 'device_authorization_endpoint'")
	}
	if p.Metadata != nil {
		if err := p.Metadata.Check("", authserver.DeviceCodeGrant); err != nil {
			return nil, err
		}
	}
	request := p.Request
	request.Endpoint = p.Settings.DeviceAuthorizationEndpoint
	request.Form = withoutGrantType(request.Form)
	device, err := request.AuthorizeDevice(ctx, p.Transport)
	if err != nil {
		return nil, err
	}
	return &Device{device, p, values}, nil
}

// PollDevice waits until somebody has confirmed the code, and keeps the grant. waiting
// is told of each wait, as for authserver.Request.Poll.
func (c *Client) PollDevice(ctx context.Context, d *Device, replace bool, waiting func(time.Duration, *authserver.Error)) (*Result, error) {
	request := d.prepared.Request
	request.Form = maps.Clone(request.Form)
	request.Form.Del("scope") // the code stands for it
	token, err := request.Poll(ctx, d.prepared.Transport, d.DeviceAuthorization, waiting)
	if err != nil {
		return nil, err
	}
	return c.keep(context.WithoutCancel(ctx), d.prepared, d.values, token, replace)
}
