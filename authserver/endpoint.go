package authserver

// endpoint is one of an authorization server's endpoints, in the words by which
// texts name it.
type endpoint struct {
	option  string // the config option with its address, which metadata names alike
	request string // what it is sent
	answer  string // what it grants; empty if its answers say all by their status
	member  string // what each answer that grants it has
}

var (
	tokenEndpoint               = endpoint{"token_endpoint", "token request", "a token", "access_token"}
	authorizationEndpoint       = endpoint{"authorization_endpoint", "authorization request", "a code", "code"}
	deviceAuthorizationEndpoint = endpoint{"device_authorization_endpoint", "device authorization request", "a device code", "device_code"}
	revocationEndpoint          = endpoint{"revocation_endpoint", "revocation request", "", ""}
)
