package upstream

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// testToken returns a token in its prime.
func testToken(value, tokenType string) *authserver.Token {
	return authserver.NewToken(value, tokenType)
}

// Places for tokens.
var (
	authorization = Placement{Name: "Authorization", ByType: true}
	oauthScheme   = Placement{Name: "Authorization", Scheme: "OAuth"}
	apiToken      = Placement{Name: "X-Api-Token"}
	accessToken   = Placement{Name: "access_token", Query: true}
)

// inserting returns what puts tokens there.
func inserting(p Placement) *injector {
	in := newInjector(p, nil)
	return &in
}

// requestWith returns a request with exactly this header.
func requestWith(header http.Header) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://api.internal.example.com/orders", nil)
	r.Header = header
	return r
}

// requestFor returns a request with exactly this query, whatever it is.
func requestFor(rawQuery string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://api.internal.example.com/orders", nil)
	r.URL.RawQuery = rawQuery
	return r
}

func TestInjectedFieldValue(t *testing.T) {
	tests := []struct {
		name      string
		place     Placement
		tokenType string
		field     string
		want      string
	}{
		{"the default", authorization, "Bearer", "Authorization", "Bearer opaque"},
		{"a type in lower case", authorization, "bearer", "Authorization", "Bearer opaque"},
		{"no type", authorization, "", "Authorization", "Bearer opaque"},
		{"the odd BearerToken", authorization, "BearerToken", "Authorization", "Bearer opaque"},
		{"a scheme in Authorization", oauthScheme, "Bearer", "Authorization", "OAuth opaque"},
		{"a scheme for a type of its own", Placement{Name: "Authorization", Scheme: "Zoho-oauthtoken"}, "zoho", "Authorization", "Zoho-oauthtoken opaque"},
		{"another field", apiToken, "Bearer", "X-Api-Token", "opaque"},
		{"another field with a scheme", Placement{Name: "X-Api-Token", Scheme: "Token"}, "Bearer", "X-Api-Token", "Token opaque"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := requestWith(http.Header{"Accept": {"*/*"}})
			inserting(test.place).put(r, testToken("opaque", test.tokenType), new([1]string))
			want := http.Header{"Accept": {"*/*"}, test.field: {test.want}}
			if !reflect.DeepEqual(r.Header, want) {
				t.Errorf("the header is %v, want %v", r.Header, want)
			}
		})
	}
}

func TestInjectedFieldFollowsTheToken(t *testing.T) {
	older, newer := testToken("older", "Bearer"), testToken("newer", "Bearer")
	for _, token := range []*authserver.Token{older, older, newer, older, newer, newer} {
		for prefix, in := range map[string]*injector{
			"Bearer ": inserting(authorization),
			"OAuth ":  inserting(oauthScheme),
			"":        inserting(apiToken),
		} {
			r := requestWith(http.Header{})
			in.put(r, token, new([1]string))
			if got, want := r.Header.Get(in.Name), prefix+token.AccessToken.Reveal(); got != want {
				t.Fatalf("the field is %q, want %q", got, want)
			}
		}
	}
}

func TestInjectedFieldIsMadeOnceForEachToken(t *testing.T) {
	tokens := []*authserver.Token{testToken("of one account", "Bearer"), testToken("of another account", "Bearer")}
	handlers := []*injector{inserting(authorization), inserting(authorization)} // of two sites
	r, room := requestWith(http.Header{}), new([1]string)
	allocations := testing.AllocsPerRun(100, func() {
		for _, token := range tokens {
			for _, in := range handlers {
				in.put(r, token, room)
			}
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations for fields that have been made before", allocations)
	}
}

func TestInjectedFieldBelongsToItsRequest(t *testing.T) {
	in, token := inserting(authorization), testToken("opaque", "Bearer")
	first, second := requestWith(http.Header{}), requestWith(http.Header{})
	in.put(first, token, new([1]string))
	in.put(second, token, new([1]string))

	// request_header replaces text within the values, in place.
	first.Header["Authorization"][0] = "edited"
	third := requestWith(http.Header{})
	in.put(third, token, new([1]string))
	for name, r := range map[string]*http.Request{"second": second, "third": third} {
		if got := r.Header.Get("Authorization"); got != "Bearer opaque" {
			t.Errorf("an edit of the first request changed the %s one's field to %q", name, got)
		}
	}
}

func TestCallersFieldIsTakenOut(t *testing.T) {
	tests := []struct {
		name   string
		place  Placement
		header http.Header
		want   http.Header // after take
	}{
		{
			name:   "one copy",
			place:  authorization,
			header: http.Header{"Authorization": {"Basic abc"}, "Accept": {"*/*"}},
			want:   http.Header{"Accept": {"*/*"}},
		},
		{
			name:   "several copies",
			place:  authorization,
			header: http.Header{"Authorization": {"Basic abc", "Bearer mine"}},
			want:   http.Header{},
		},
		{
			name:  "spellings that CGI-like upstreams read as the same",
			place: apiToken,
			header: http.Header{
				"X-Api-Token": {"mine"}, "X_api_token": {"mine"}, "X.api.token": {"mine"}, "X_api-Token": {"mine"},
				"x-api-token": {"mine"}, "X.API_TOKEN": {"mine"},
			},
			want: http.Header{},
		},
		{
			name:   "names that only resemble it stay",
			place:  apiToken,
			header: http.Header{"X-Api-Tokens": {"a"}, "Xapitoken": {"b"}, "X-Api-Toke": {"c"}, "X~api~token": {"d"}, "Y-Api-Token": {"e"}},
			want:   http.Header{"X-Api-Tokens": {"a"}, "Xapitoken": {"b"}, "X-Api-Toke": {"c"}, "X~api~token": {"d"}, "Y-Api-Token": {"e"}},
		},
		{
			name:   "Authorization stays where the token goes elsewhere",
			place:  apiToken,
			header: http.Header{"Authorization": {"Basic abc"}},
			want:   http.Header{"Authorization": {"Basic abc"}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := requestWith(test.header)
			inserting(test.place).take(r)
			if !reflect.DeepEqual(r.Header, test.want) {
				t.Errorf("the header is %v, want %v", r.Header, test.want)
			}
		})
	}
}

func TestConnectionCannotStripTheField(t *testing.T) {
	tests := []struct {
		name         string
		before, want []string // nil: no such field
	}{
		{"no Connection field", nil, nil},
		{"other options stay", []string{"keep-alive"}, []string{"keep-alive"}},
		{"the only option", []string{"Authorization"}, nil},
		{"in lower case", []string{"authorization"}, nil},
		{"at the front", []string{"Authorization, close"}, []string{"close"}},
		{"at the end", []string{"close, Authorization"}, []string{"close"}},
		{"in the middle", []string{"close, Authorization, Upgrade"}, []string{"close, Upgrade"}},
		{"several times", []string{"authorization,AUTHORIZATION , close,Authorization"}, []string{"close"}},
		{"with tabs", []string{"close,\tAuthorization\t"}, []string{"close"}},
		{"on lines of its own", []string{"close", "Authorization", "Upgrade"}, []string{"close", "Upgrade"}},
		{"on all lines", []string{"Authorization", "authorization"}, nil},
		{"a longer name stays", []string{"Authorization-Info, close"}, []string{"Authorization-Info, close"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := requestWith(http.Header{})
			if test.before != nil {
				r.Header["Connection"] = slices.Clone(test.before)
			}
			inserting(authorization).put(r, testToken("opaque", ""), new([1]string))
			if got := r.Header["Connection"]; !reflect.DeepEqual(got, test.want) {
				t.Errorf("Connection is %q, want %q", got, test.want)
			}
			if _, present := r.Header["Connection"]; present != (test.want != nil) {
				t.Errorf("Connection is present: %v", present)
			}
		})
	}
}

func testProofs(t *testing.T) *Proofs {
	t.Helper()
	key, err := authserver.NewProofKey()
	if err != nil {
		t.Fatal(err)
	}
	return NewProofs(key, new(authserver.Nonces), "https://api.partner.example/")
}

// lateTrailer is a body at whose end net/http fills in the trailers.
type lateTrailer struct {
	io.Reader
	r     *http.Request
	names []string
}

func (b *lateTrailer) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		for _, name := range b.names {
			b.r.Trailer[name] = []string{"sent by the caller"}
		}
	}
	return n, err
}

func (b *lateTrailer) Close() error { return nil }

func TestTrailersCannotCarryTheField(t *testing.T) {
	tests := []struct {
		name   string
		place  Placement
		proofs *Proofs
		sent   []string
		want   []string
	}{
		{"the default field", authorization, nil, []string{"Authorization", "Dpop", "Checksum"}, []string{"Checksum", "Dpop"}},
		{"the default field and a proof", authorization, testProofs(t), []string{"Authorization", "Dpop", "Checksum"}, []string{"Checksum"}},
		{"another field", apiToken, nil, []string{"X-Api-Token", "X_api_token", "X.api.token", "Authorization"}, []string{"Authorization"}},
		{"a query parameter", accessToken, nil, []string{"Authorization"}, []string{"Authorization"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := inserting(test.place)
			in.proofs = test.proofs
			r := requestWith(http.Header{})
			r.Trailer = make(http.Header)
			for _, name := range test.sent {
				r.Trailer[name] = nil // announced
			}
			body := &lateTrailer{Reader: strings.NewReader("the body"), r: r, names: test.sent}
			r.Body = body

			before := in.put(r, testToken("opaque", ""), new([1]string))
			if got := slices.Sorted(maps.Keys(r.Trailer)); !slices.Equal(got, test.want) {
				t.Errorf("the trailers announced are %q, want %q", got, test.want)
			}
			if got, err := io.ReadAll(r.Body); err != nil || string(got) != "the body" {
				t.Errorf("the body reads as %q, %v", got, err)
			}
			if got := slices.Sorted(maps.Keys(r.Trailer)); !slices.Equal(got, test.want) {
				t.Errorf("the trailers sent are %q, want %q", got, test.want)
			}
			in.putBack(r, &before)
			if r.Body != io.ReadCloser(body) {
				t.Error("the request did not get its body back")
			}
		})
	}
}

// oddQueries are raw queries as callers send them, and what is left of each
// when the parameter access_token is taken out.
var oddQueries = []struct {
	name         string
	before, want string
}{
	{"empty", "", ""},
	{"other parameters", "page=2&sort=asc", "page=2&sort=asc"},
	{"the caller's own", "access_token=mine", ""},
	{"among others", "page=2&access_token=mine&sort=asc", "page=2&sort=asc"},
	{"several times", "access_token=mine&page=2&access_token=more", "page=2"},
	{"without a value", "access_token&page=2", "page=2"},
	{"with an empty value", "access_token=&page=2", "page=2"},
	{"with several equal signs", "access_token=a=b=c&page=2", "page=2"},
	{"name percent-encoded", "%61ccess%5Ftoken=mine&page=2", "page=2"},
	{"value with broken escapes", "access_token=%zz&page=2", "page=2"},
	{"broken escapes elsewhere", "%zz=1&a=%&access_token=mine", "%zz=1&a=%"},
	{"empty parameters", "&&page=2&&access_token=mine&", "&&page=2&&"},
	{"parameters without a name", "=1&==&access_token=mine", "=1&=="},
	{"longer names stay", "access_token2=a&xaccess_token=b&access_token[]=c", "access_token2=a&xaccess_token=b&access_token[]=c"},
	{"names differ in case", "Access_Token=a&ACCESS_TOKEN=b", "Access_Token=a&ACCESS_TOKEN=b"},
	{"unescaped characters", "q=a b|c\"d<é>&access_token=mine", "q=a b|c\"d<é>"},
	{"a question mark", "?a=1&access_token=mine", "?a=1"},
}

func TestQueryInjection(t *testing.T) {
	for _, test := range oddQueries {
		t.Run(test.name, func(t *testing.T) {
			in := inserting(accessToken)

			r := requestFor(test.before)
			in.take(r)
			if r.URL.RawQuery != test.want {
				t.Errorf("take leaves %q, want %q", r.URL.RawQuery, test.want)
			}

			r = requestFor(test.before)
			in.put(r, testToken("a+b/c=&d", ""), new([1]string))
			want := "access_token=a%2Bb%2Fc%3D%26d"
			if test.want != "" {
				want = test.want + "&" + want
			}
			if r.URL.RawQuery != want {
				t.Errorf("put makes %q, want %q", r.URL.RawQuery, want)
			}
		})
	}

	t.Run("a name that needs escapes", func(t *testing.T) {
		r := requestFor("access token=mine&access+token=mine&access%20token=mine&page=2")
		inserting(Placement{Name: "access token", Query: true}).put(r, testToken("opaque", ""), new([1]string))
		if got, want := r.URL.RawQuery, "page=2&access+token=opaque"; got != want {
			t.Errorf("the query is %q, want %q", got, want)
		}
	})
}

func TestPresent(t *testing.T) {
	tests := []struct {
		name     string
		place    Placement
		header   http.Header
		rawQuery string
		want     bool
	}{
		{"no field", authorization, http.Header{"Accept": {"*/*"}}, "", false},
		{"the field", authorization, http.Header{"Authorization": {"Basic abc"}}, "", true},
		{"an empty field", authorization, http.Header{"Authorization": {""}}, "", false},
		{"Authorization where the token goes elsewhere", apiToken, http.Header{"Authorization": {"Basic abc"}}, "", false},
		{"the other field", apiToken, http.Header{"X-Api-Token": {"mine"}}, "", true},
		{"no parameter", accessToken, nil, "page=2", false},
		{"the parameter", accessToken, nil, "page=2&access_token=mine", true},
		{"the parameter percent-encoded", accessToken, nil, "access%5Ftoken=mine", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := requestFor(test.rawQuery)
			r.Header = test.header
			if got := New(Settings{Placement: test.place}).Present(r); got != test.want {
				t.Errorf("Present is %v, want %v", got, test.want)
			}
		})
	}
}

// content is all of a request that an injector may touch, copied.
type content struct {
	header, trailer http.Header
	url             url.URL
	body            io.ReadCloser
	requestURI      string
}

func contentOf(r *http.Request) content {
	return content{header: r.Header.Clone(), trailer: r.Trailer.Clone(), url: *r.URL, body: r.Body, requestURI: r.RequestURI}
}

func TestPutBackRestoresTheRequestBitForBit(t *testing.T) {
	for seed := range uint64(5000) {
		dice := rand.New(rand.NewPCG(seed, 0))
		place := randomPlace(dice)
		in := inserting(place)
		r := randomRequest(dice, in)
		before := contentOf(r)
		what := fmt.Sprintf("seed %d: %+v, header %q, query %q", seed, place, before.header, before.url.RawQuery)

		// Without a token to put there, take alone is used.
		var undo saved
		token := "token-" + fmt.Sprint(seed)
		if dice.IntN(3) == 0 {
			token = ""
			undo = in.take(r)
		} else {
			undo = in.put(r, testToken(token, "Bearer"), new([1]string))
		}
		if problem := whileInjected(r, before, in, token); problem != "" {
			t.Fatalf("%s: %s", what, problem)
		}

		// Handlers edit the field while it is theirs.
		switch dice.IntN(4) {
		case 0:
			r.Header.Del(in.Name)
		case 1:
			r.Header.Add(in.Name, "edited")
		case 2:
			if values := r.Header[in.Name]; len(values) > 0 {
				values[0] = "edited"
			}
			if in.Query { // the field is no business of this injector's
				r.Header = before.header.Clone()
			}
		}
		if in.Query {
			r.Header = before.header.Clone()
			r.URL.RawQuery += "&edited=1"
		}

		in.putBack(r, &undo)
		if after := contentOf(r); !reflect.DeepEqual(after, before) {
			t.Fatalf("%s: not as before\n got %+v\nwant %+v", what, after, before)
		}
	}
}

// whileInjected compares the request with what it should be while the token is
// on it, or after take if the token is empty. It returns what is wrong.
func whileInjected(r *http.Request, before content, in *injector, token string) string {
	rest := before.header.Clone() // what is for the upstream
	if in.Query {
		values, _ := url.ParseQuery(r.URL.RawQuery) // broken parameters are left out
		got := values[in.Name]
		switch {
		case token == "" && len(got) > 0:
			return fmt.Sprintf("the caller's parameter is left: %q", r.URL.RawQuery)
		case token != "" && !slices.Equal(got, []string{token}):
			return fmt.Sprintf("the parameter is %q, want the token alone", got)
		case !reflect.DeepEqual(r.Header, rest):
			return fmt.Sprintf("the header is %q", r.Header)
		}
		return ""
	}

	if got := r.URL.RawQuery; got != before.url.RawQuery {
		return fmt.Sprintf("the query has changed to %q", got)
	}
	found := 0
	for name, values := range r.Header {
		switch {
		case sameToCGI(name, in.Name):
			found++
			if name != in.Name || len(values) != 1 || !strings.HasSuffix(values[0], token) || token == "" {
				return fmt.Sprintf("the caller's field is left: %s: %q", name, values)
			}
		case name == "Connection":
			for option := range strings.SplitSeq(strings.Join(values, ","), ",") {
				if strings.EqualFold(strings.TrimSpace(option), in.Name) {
					return fmt.Sprintf("Connection still names the field: %q", values)
				}
			}
		case !reflect.DeepEqual(values, rest[name]):
			return fmt.Sprintf("the field %s has changed to %q", name, values)
		}
	}
	if token != "" && found == 0 {
		return "the token is not there"
	}
	for name := range rest {
		if _, kept := r.Header[name]; !kept && name != "Connection" && !sameToCGI(name, in.Name) {
			return fmt.Sprintf("the field %s is gone", name)
		}
	}
	return ""
}

// sameToCGI reports whether an upstream that puts header fields into variables,
// as CGI does, reads both names as the same.
func sameToCGI(a, b string) bool {
	variable := func(name string) string {
		return strings.Map(func(r rune) rune {
			if r == '-' || r == '.' {
				return '_'
			}
			return r
		}, strings.ToUpper(name))
	}
	return variable(a) == variable(b)
}

func randomPlace(dice *rand.Rand) Placement {
	return pick(dice,
		authorization,
		oauthScheme,
		apiToken,
		Placement{Name: "X-Api-Token", Scheme: "Token"},
		Placement{Name: "Token"},
		accessToken,
		Placement{Name: "a token/?&=", Query: true},
	)
}

// randomRequest makes a request that more often than not has something in the
// way of the token.
func randomRequest(dice *rand.Rand, in *injector) *http.Request {
	names := []string{
		in.Name, in.Name, "Connection", "Accept", "Authorization", "Cookie", "Token", "X-Api-Token", "X_api_token", "X.api.token",
		"X_api-Token", "X-Api-Tokens", "x-api-token", "X-Forwarded-For",
	}
	header := make(http.Header)
	for range dice.IntN(12) {
		name := pick(dice, names...)
		if name == "Connection" {
			header[name] = pick(dice,
				[]string{"keep-alive"}, []string{in.Name}, []string{strings.ToLower(in.Name) + " ,close"},
				[]string{"Upgrade", in.Name, "close,,"}, []string{""}, []string{}, []string{",", in.Name + "," + in.Name})
			continue
		}
		header[name] = pick(dice, []string{"a"}, []string{""}, []string{}, []string{"a", "b"}, []string{"a", "a"})
	}

	parameter := url.QueryEscape(in.Name)
	var query []string
	for range dice.IntN(6) {
		query = append(query, pick(dice,
			"page=2", "", "=", "a=b=c", "%zz=%", "q=a b", "é=ü",
			parameter, parameter+"=mine", parameter+"=", parameter+"x=kept", "%"+fmt.Sprintf("%02X", in.Name[0])+url.QueryEscape(in.Name[1:])+"=mine"))
	}
	r := requestFor(strings.Join(query, "&"))
	r.Header = header
	r.URL.ForceQuery = dice.IntN(2) == 0
	if dice.IntN(4) == 0 {
		r.Body = io.NopCloser(strings.NewReader("body"))
		r.Trailer = http.Header{"Checksum": nil}
	}
	return r
}

func pick[T any](dice *rand.Rand, choices ...T) T { return choices[dice.IntN(len(choices))] }
