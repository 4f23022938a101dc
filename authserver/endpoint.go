package authserver

// endpoint is one of an authorization server's endpoints, in the words by which
// texts name it.
type endpoint struct {
	option  string // of the config, with its address; metadata has the same name
	request string // what it is sent
	answer  string // what it grants; empty if its answer says all by its status
	member  string // which every such answer has
}

var (
	tokenEndpoint               = endpoint{"token_endpoint", "token request", "a token", "access_token"}
	authorizationEndpoint       = endpoint{"authorization_endpoint", "authorization request", "a code", "code"}
	deviceAuthorizationEndpoint = endpoint{"device_authorization_endpoint", "device authorization request", "a device code", "device_code"}
	revocationEndpoint          = endpoint{"revocation_endpoint", "revocation request", "", ""}
)
