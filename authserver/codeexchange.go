package authserver

import "net/url"

// AuthorizationCodeGrant is the grant_type of an authorization code.
const AuthorizationCodeGrant = "authorization_code"

// CodeExchange returns the form of the token request that exchanges an
// authorization code (RFC 6749 section 4.1.3, RFC 7636 section 4.5). The redirect
// URI and the verifier are those of the AuthorizationRequest. A code is good for
// one such request: whatever comes of it, the next one needs another code.
func CodeExchange(code Secret, redirectURI string, verifier Secret) url.Values {
	return url.Values{
		"grant_type":    {AuthorizationCodeGrant},
		"code":          {code.Reveal()},
		"redirect_uri":  {redirectURI},
		"code_verifier": {verifier.Reveal()},
	}
}

// codeHints are the next steps where a code is refused.
var codeHints = map[string]string{
	"invalid_grant": "the code has expired, was used before, or is for another redirect URI: sign in anew",
}
