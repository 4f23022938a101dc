// Package keeping tests in a whole Caddy what keeping a grant promises, with storages as they are.
package keeping

import _ "github.com/upstream-oauth2/caddy-upstream-oauth2"
