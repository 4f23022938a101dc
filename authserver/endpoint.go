package authserver

// endpoint is one of an authorization server's endpoints, in the words by which
// texts name it.
type endpoint struct {
	option  string // of the config, with its address; metadata has the same name
	request string // what it is sent
	answer  string // what it answers if all is well
	member  string // what such an answer has
}

var tokenEndpoint = endpoint{"token_endpoint", "token request", "a token", "access_token"}
