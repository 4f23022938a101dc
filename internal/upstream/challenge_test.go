package upstream

import (
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestParseChallenges: what the APIs of this world write into WWW-Authenticate.
func TestParseChallenges(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		want   []challenge
	}{
		{"none", nil, nil},
		{"empty", []string{""}, nil},
		{"white space", []string{" \t "}, nil},
		{"commas", []string{",, ,"}, nil},

		{"a scheme", []string{"Bearer"}, []challenge{{"Bearer", ""}}},
		{"a scheme in odd case", []string{"bEaReR"}, []challenge{{"bEaReR", ""}}},
		{"a scheme within white space", []string{"\t Bearer "}, []challenge{{"Bearer", ""}}},
		{"a parameter", []string{`Bearer realm="a"`}, []challenge{{"Bearer", ""}}},
		{"an error", []string{`Bearer error="invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"an error as a token", []string{`Bearer error=invalid_token`}, []challenge{{"Bearer", "invalid_token"}}},
		{"an error in capitals", []string{`Bearer ERROR="invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"an error behind others", []string{`Bearer realm="a", scope="b c", error="insufficient_scope"`}, []challenge{{"Bearer", "insufficient_scope"}}},
		{"an error before others", []string{`Bearer error="insufficient_scope", realm="a"`}, []challenge{{"Bearer", "insufficient_scope"}}},
		{"an error with its description", []string{`Bearer error="invalid_token", error_description="error=none, Basic", error_uri="x"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"an empty error", []string{`Bearer error=""`}, []challenge{{"Bearer", ""}}},
		{"spaces around =", []string{`Bearer error = "invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"spaces around = behind others", []string{`Bearer realm = "a" , error	=	"invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"no space behind the comma", []string{`Bearer realm="a",error="invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"a comma too many", []string{`Bearer realm="a",,error="invalid_token",`}, []challenge{{"Bearer", "invalid_token"}}},
		{"a comma behind the scheme", []string{`Bearer, error="invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"a quoted comma", []string{`Bearer realm="a, Basic", error="invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"a quoted quote", []string{`Bearer realm="a\", Basic", error="invalid_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"escapes in the error", []string{`Bearer error="invalid\_token"`}, []challenge{{"Bearer", "invalid_token"}}},
		{"a quote that never ends", []string{`Bearer realm="a, error=x`, `Bearer error="y`}, []challenge{{"Bearer", ""}, {"Bearer", "y"}}},
		{"a token68", []string{`Negotiate YWJj==, Bearer`}, []challenge{{"Negotiate", ""}, {"Bearer", ""}}},

		{"two challenges", []string{`Basic realm="a", Bearer realm="b"`}, []challenge{{"Basic", ""}, {"Bearer", ""}}},
		{"two challenges, the error of the second", []string{`Basic realm="a", Bearer error="x"`}, []challenge{{"Basic", ""}, {"Bearer", "x"}}},
		{"two challenges, the error of the first", []string{`Bearer error="x", Basic realm="a"`}, []challenge{{"Bearer", "x"}, {"Basic", ""}}},
		{"two lines", []string{"Basic", `Bearer error="x"`}, []challenge{{"Basic", ""}, {"Bearer", "x"}}},
		{"RFC 9110's own example", []string{`Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\""`}, []challenge{{"Basic", ""}, {"Newauth", ""}}},
		{"a DPoP nonce", []string{`DPoP error="use_dpop_nonce", error_description="x"`}, []challenge{{"DPoP", "use_dpop_nonce"}}},

		{"a parameter without a scheme", []string{`error="x"`}, nil},
		{"a parameter of the line before", []string{"Bearer", `error="x"`}, []challenge{{"Bearer", "x"}}},
		{"= alone", []string{"=", "= =", `="x"`}, nil},
		{"text", []string{"please log in"}, []challenge{{"please", ""}}},
		{"not ASCII", []string{"Bearer r\u00e9alm=\"\u00e9\", error=x"}, []challenge{{"Bearer", "x"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := parseChallenges(test.values); !slices.Equal(got, test.want) {
				t.Errorf("%q is read as %q, want %q", test.values, got, test.want)
			}
		})
	}
}

// TestEndlessChallenges: an API answers with megabytes of them.
func TestEndlessChallenges(t *testing.T) {
	endless := strings.Repeat("a,", 4<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	parseChallenges([]string{endless, endless})
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 4<<20 {
		t.Errorf("%d bytes are allocated to read them", allocated)
	}
	beyond := []string{"Bearer", strings.Repeat(" ", maxChallenges), `Bearer error="insufficient_scope"`}
	if got := parseChallenges(beyond); !slices.Equal(got, []challenge{{"Bearer", ""}}) {
		t.Errorf("%q is read, want the first one alone", got)
	}
	within := []string{strings.Repeat(" ", maxChallenges-len("Bearer")), "Bearer"}
	if got := parseChallenges(within); !slices.Equal(got, []challenge{{"Bearer", ""}}) {
		t.Errorf("%q is read, want Bearer", got)
	}
}

// FuzzWWWAuthenticate: whatever an API writes, reading it neither panics nor
// makes more of it than there is, and what is quoted is no challenge.
func FuzzWWWAuthenticate(f *testing.F) {
	for _, seed := range []string{
		"", "Bearer", "Bearer,", `Bearer error="invalid_token"`, `Basic realm="a, b", Bearer error=insufficient_scope`,
		`Bearer realm="\"`, `Bearer error="\`, `="`, ", ,", "Bearer \xff", "Negotiate YQ==", "\"", `a="b"c="d"`,
		"Bearer\x00error=x", "Bearer error", "Bearer error=", "Bearer  error\t=\tx", strings.Repeat("a,", 100), strings.Repeat(`\"`, 100),
	} {
		f.Add(seed, "Bearer")
	}
	f.Add("Bearer", `error="x"`)
	f.Fuzz(func(t *testing.T, first, second string) {
		challenges := parseChallenges([]string{first, second})

		if most := strings.Count(first+second, ",") + 2; len(challenges) > most {
			t.Errorf("%d challenges of at most %d", len(challenges), most)
		}
		for _, c := range challenges {
			if rest := strings.Trim(c.scheme, tokenCharacters); c.scheme == "" || rest != "" {
				t.Errorf("the scheme %q is no token", c.scheme)
			}
			if !strings.Contains(first, c.scheme) && !strings.Contains(second, c.scheme) {
				t.Errorf("the scheme %q comes from nowhere", c.scheme)
			}
			if len(c.err) > len(first) && len(c.err) > len(second) {
				t.Errorf("the error %q comes from nowhere", c.err)
			}
		}
		replay := Replay{Status: []int{401}}
		header := map[string][]string{"Www-Authenticate": {first, second}}
		if verdict, _ := replay.judge(200, header); verdict != accepted {
			t.Error("a 200 is taken for a rejection")
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(first + second)
		if got := parseChallenges([]string{`Basic realm="` + quoted + `"`}); !slices.Equal(got, []challenge{{"Basic", ""}}) {
			t.Errorf("what is quoted is read as %q", got)
		}
	})
}

// tokenCharacters are those of RFC 9110 section 5.6.2.
const tokenCharacters = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
