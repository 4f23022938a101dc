package block

import (
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// This file finds the option that is meant by a name that is none.

// otherNames are what options are called elsewhere: for each the option, or the
// whole line where it takes more than a value.
var otherNames = map[string]string{
	"token_url":        "token_endpoint",
	"token_uri":        "token_endpoint",
	"access_token_url": "token_endpoint",
	"endpoint":         "token_endpoint",
	"issuer_url":       "issuer",
	"oidc_issuer":      "issuer",
	"oidc_issuer_url":  "issuer",
	"discovery_url":    "issuer",
	"metadata_url":     "issuer",
	"provider_url":     "issuer",

	"secret":                     "client_secret",
	"token_secret":               "client_secret",
	"secret_file":                "client_secret {file./absolute/path}",
	"client_secret_file":         "client_secret {file./absolute/path}",
	"client_secret_env":          "client_secret {env.NAME}",
	"auth_style":                 "client_auth",
	"auth_method":                "client_auth",
	"token_endpoint_auth_method": "client_auth",
	"private_key":                "client_auth private_key_jwt { key <file> }",
	"private_key_file":           "client_auth private_key_jwt { key <file> }",
	"assertion_file":             "client_auth assertion_file <file>",

	"grant_type":      "grant",
	"refresh_token":   "grant refresh_token { refresh_token {file./absolute/path} }",
	"service_account": "grant jwt_bearer { service_account <file> }",
	"subject_token":   "grant token_exchange { subject_token <placeholder> }",
	"scopes":          "scope",
	"audiences":       "audience",
	"resources":       "resource",
	"endpoint_params": "token_param",
	"params":          "token_param",
	"headers":         "token_header",
	"header":          "inject",
	"header_name":     "inject header <name>",

	"ttl":            "default_lifetime",
	"refresh_before": "refresh_ahead",
	"early_refresh":  "refresh_ahead",

	"tls_insecure_skip_verify": "transport http { tls_insecure_skip_verify }",
	"insecure_skip_verify":     "transport http { tls_insecure_skip_verify }",
	"tls_trust_pool":           "transport http { tls_trust_pool file <ca.pem> }",
	"ca_file":                  "transport http { tls_trust_pool file <ca.pem> }",
	"tls_ca":                   "transport http { tls_trust_pool file <ca.pem> }",
	"tls_server_name":          "transport http { tls_server_name <name> }",
	"proxy":                    "transport http { network_proxy url <url> }",
	"proxy_url":                "transport http { network_proxy url <url> }",
	"http_proxy":               "transport http { network_proxy url <url> }",
	"network_proxy":            "transport http { network_proxy url <url> }",
	"forward_proxy_url":        "transport http { network_proxy url <url> }",
}

// unknownOption says what to write instead of a name that is no option: the one that
// is meant, or one of all.
func unknownOption(d *caddyfile.Dispenser, owner, name string, options map[string]Option) error {
	known := slices.Sorted(maps.Keys(options))
	spelled := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	line := otherNames[spelled]
	option, _, whole := strings.Cut(line, " ")
	if _, ok := options[option]; !ok {
		option, whole = config.Nearest(spelled, known), false
	}
	if len(known) == 1 {
		option = known[0]
	} else if _, ok := options["client"]; ok && option == "" {
		option = "client" // under the global option, whose line may have been left out
	}
	switch {
	case whole:
		return d.Errf("%s has no option %q: write '%s'", owner, name, line)
	case option != "":
		return d.Errf("%s has no option %q: write '%s'", owner, name, strings.TrimSpace(option+" "+options[option].Usage))
	}
	return d.Errf("%s has no option %q: write one of %s", owner, name, strings.Join(known, ", "))
}
