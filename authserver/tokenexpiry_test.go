package authserver_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// The exp of whatever a caller brings as a token.
func TestExpiryOf(t *testing.T) {
	jwt := func(payload string) string {
		return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2lnbmVk"
	}
	// sized returns a JWT of n characters, which fills up the signature.
	sized := func(n int) string {
		whole := jwt(`{"exp":946684860}`)
		return whole + strings.Repeat("x", n-len(whole))
	}
	at := time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC)
	tests := []struct {
		name  string
		token string
		want  time.Time // zero for none
	}{
		{"number", jwt(`{"iss":"x","exp":946684860}`), at},
		{"float", jwt(`{"exp":946684860.9}`), at},
		{"exponent", jwt(`{"exp":9.4668486e8}`), at},
		{"string", jwt(`{"exp":"946684860"}`), at},
		{"padded", strings.Replace(jwt(`{"exp":946684860}`), ".c2", "=.c2", 1), at},
		{"in white space, as files have it", " " + jwt(`{"exp":946684860}`) + "\n", at},
		{"without a signature", strings.TrimSuffix(jwt(`{"exp":946684860}`), "c2lnbmVk"), at},
		{"the epoch", jwt(`{"exp":0}`), time.Unix(0, 0)},
		{"before the epoch", jwt(`{"exp":-60}`), time.Unix(-60, 0)},
		{"the last second of 9999", jwt(`{"exp":253402300799}`), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{"64 KiB", sized(64 << 10), at},

		{"more than 64 KiB", sized(64<<10 + 1), time.Time{}},
		{"no exp", jwt(`{"iat":946684860}`), time.Time{}},
		{"null", jwt(`{"exp":null}`), time.Time{}},
		{"a word", jwt(`{"exp":"tomorrow"}`), time.Time{}},
		{"true", jwt(`{"exp":true}`), time.Time{}},
		{"a list", jwt(`{"exp":[946684860]}`), time.Time{}},
		{"beyond 9999", jwt(`{"exp":253402300800}`), time.Time{}},
		{"beyond int64", jwt(`{"exp":1e300}`), time.Time{}},
		{"below int64", jwt(`{"exp":-1e300}`), time.Time{}},
		{"not a number", jwt(`{"exp":"NaN"}`), time.Time{}},
		{"another case", jwt(`{"EXP":946684860}`), time.Time{}},
		{"one level down", jwt(`{"data":{"exp":946684860}}`), time.Time{}},
		{"a payload that is no object", jwt(`[946684860]`), time.Time{}},
		{"a payload that is cut", jwt(`{"exp":946684860`), time.Time{}},
		{"a payload that is no base64", "a.!!!!.c", time.Time{}},
		{"encrypted", "a.b.c.d.e", time.Time{}},
		{"two parts", "a.eyJleHAiOjk0NjY4NDg2MH0", time.Time{}},
		{"opaque", "0.AVQ8-opaque-9fGh", time.Time{}},
		{"empty", "", time.Time{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := authserver.ExpiryOf(authserver.NewSecret(test.token))
			if !got.Equal(test.want) || ok == test.want.IsZero() {
				t.Errorf("got %s and %t, want %s", got.UTC(), ok, test.want)
			}
		})
	}
}
