package signin

import "context"

// AuthorizationEndpoint returns where Begin sends the browser; empty where that cannot
// be found out now.
func (c *Client) AuthorizationEndpoint(ctx context.Context, account string) string {
	if c.Definition.AuthorizationEndpoint != "" {
		return c.Definition.AuthorizationEndpoint
	}
	values, err := c.values(account)
	if err != nil {
		return ""
	}
	p, err := c.Source.SignIn(ctx, values)
	if err != nil {
		return ""
	}
	return p.Settings.AuthorizationEndpoint
}
