package integration

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// connectSite has a page for three clients: partner and other are everybody's, and with
// own each has a connection of their own.
const connectSite = `{
	upstream_oauth2 {
		encryption_key {env.UPSTREAM_OAUTH2_KEY}
		client partner {
			issuer        {$ISSUER}
			client_id     partner-id
			client_secret partner-secret
			scope         read
			grant         authorization_code
		}
		client other {
			issuer        {$ISSUER}
			client_id     other-id
			client_secret other-secret
			grant         authorization_code
		}
		client own {
			issuer        {$ISSUER}
			client_id     own-id
			client_secret own-secret
			grant         authorization_code
			account       {http.request.header.X-User}
		}
	}
}
http://{$SITE} {
	upstream_oauth2_connect {
		base_url http://{$SITE}/connect
		user     {http.request.header.X-User}
	}
	handle /own/* {
		upstream_oauth2 own
		reverse_proxy {$API}
	}
	handle {
		upstream_oauth2 partner
		reverse_proxy {$API}
	}
	handle_errors 403 503 {
		@people {
			header Accept *text/html*
			not vars {http.upstream_oauth2.sign_in_url} ""
		}
		redir @people {http.upstream_oauth2.sign_in_url} 303
		header Link "<{http.upstream_oauth2.sign_in_url}>; rel=\"sign-in\""
		respond "{err.message}"
	}
}
`

// pageServer is an authorization server for people: code-1 and so on are good once.
type pageServer struct {
	*caddytest.AuthServer

	mu         sync.Mutex
	spent      map[string]bool
	challenges map[string]string // of codes that were issued in a certain sign-in
	revoked    []string
}

func newPageServer(t *testing.T) *pageServer {
	s := &pageServer{AuthServer: caddytest.NewAuthServer(t), spent: make(map[string]bool), challenges: make(map[string]string)}
	t.Setenv("ISSUER", s.URL)
	t.Setenv("UPSTREAM_OAUTH2_KEY", strings.Repeat("0123456789abcdef", 4))
	s.Answers(s.answer)
	return s
}

func (s *pageServer) answer(w http.ResponseWriter, r caddytest.TokenRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	code := r.PostForm.Get("code")
	challenge := oauth2.S256ChallengeFromVerifier(r.PostForm.Get("code_verifier"))
	proven := challenge == cmp.Or(s.challenges[code], challenge)
	switch {
	case strings.HasPrefix(r.URL.Path, "/.well-known/"):
		metadata, _ := json.Marshal(map[string]any{
			"issuer": s.URL, "token_endpoint": s.URL + "/token", "revocation_endpoint": s.URL + "/revoke",
			"authorization_endpoint": "https://login.partner.example/authorize", "response_types_supported": []string{"code"},
			"code_challenge_methods_supported": []string{"S256"}, "authorization_response_iss_parameter_supported": true,
		})
		caddytest.Say(w, http.StatusOK, string(metadata))
	case r.URL.Path == "/revoke":
		s.revoked = append(s.revoked, r.PostForm.Get("token"))
		caddytest.Say(w, http.StatusOK, "{}")
	case code == "" || s.spent[code] || !proven:
		caddytest.Say(w, http.StatusBadRequest, `{"error":"invalid_grant"}`)
	default:
		s.spent[code] = true
		caddytest.Say(w, http.StatusOK, `{"access_token":"access-of-`+code+`","refresh_token":"refresh-of-`+code+`","token_type":"Bearer","expires_in":3600,"scope":"read"}`)
	}
}

// revocations are the tokens that were revoked.
func (s *pageServer) revocations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.revoked)
}

// issuedFor has the server take a code with the verifier of that challenge alone.
func (s *pageServer) issuedFor(code, challenge string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.challenges[code] = challenge
}

// exchanges counts the codes that have been presented.
func (s *pageServer) exchanges() int {
	n := 0
	for _, r := range s.Seen() {
		if r.PostForm.Has("code") {
			n++
		}
	}
	return n
}

// browser is one of somebody, who is known to Caddy by the field X-User.
type browser struct {
	t    *testing.T
	user string
	http *http.Client
	base string
}

func newBrowser(t *testing.T, user string) *browser {
	jar, _ := cookiejar.New(nil) // never fails
	return &browser{t: t, user: user, base: "http://" + os.Getenv("SITE"), http: &http.Client{
		Jar: jar, Timeout: caddytest.Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// send sends a request as browsers do, changed by what tests change.
func (b *browser) send(method, path string, form url.Values, change ...func(*http.Request)) caddytest.Answer {
	b.t.Helper()
	r, err := http.NewRequest(method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	r.Header.Set("X-User", b.user)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "null") // of a page without referrers
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, f := range change {
		f(r)
	}
	answer, err := caddytest.Do(b.http, r)
	if err != nil { // Caddy closes its old port behind a reload, with what waits there
		r.Body, _ = r.GetBody()
		answer, err = caddytest.Do(b.http, r)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return answer
}

func (b *browser) get(path string) caddytest.Answer {
	b.t.Helper()
	return b.send(http.MethodGet, path, nil)
}

var formToken = regexp.MustCompile(`name="token" value="([^"]+)"`)

// post submits the form for an action that the page has.
func (b *browser) post(action string, change ...func(*http.Request)) caddytest.Answer {
	b.t.Helper()
	page := b.get("/connect/")
	found := formToken.FindStringSubmatch(page.Body)
	if found == nil {
		b.t.Fatalf("the page has no form: %d %s", page.Status, page.Body)
	}
	return b.send(http.MethodPost, "/connect/"+action, url.Values{"token": {found[1]}}, change...)
}

// agree begins a sign-in, agrees at the server, and returns the path by which the
// browser comes back with that code.
func (b *browser) agree(client, code string) string {
	b.t.Helper()
	answer := b.post(client + "/connect")
	location, err := url.Parse(answer.Header.Get("Location"))
	if err != nil || answer.Status != http.StatusSeeOther || location.Host != "login.partner.example" {
		b.t.Fatalf("connecting is answered with %d to %q: %s", answer.Status, location, answer.Body)
	}
	query := location.Query()
	redirect, err := url.Parse(query.Get("redirect_uri"))
	if err != nil || "http://"+redirect.Host != b.base {
		b.t.Fatalf("the redirect URI is %q", redirect)
	}
	return redirect.Path + "?" + url.Values{"state": {query.Get("state")}, "code": {code}, "iss": {os.Getenv("ISSUER")}}.Encode()
}

// wantPage fails the test unless the page says so.
func (b *browser) wantPage(words ...string) {
	b.t.Helper()
	page := b.get("/connect/")
	for _, want := range words {
		if page.Status != http.StatusOK || !strings.Contains(page.Body, want) {
			b.t.Errorf("the page does not say %q: %d %s", want, page.Status, page.Body)
		}
	}
}

// wantRefused fails the test unless the answer is a page with that status, and nobody
// has been connected or disconnected.
func wantRefused(t *testing.T, answer caddytest.Answer, status int) {
	t.Helper()
	if answer.Status != status || !strings.Contains(answer.Body, "<h1>") || answer.Header.Get("Location") != "" {
		t.Errorf("answered with %d to %q, want a page with %d: %s", answer.Status, answer.Header.Get("Location"), status, answer.Body)
	}
}

// TestConnect: from nothing to a working API call with one click, and back.
func TestConnect(t *testing.T) {
	server, api := newPageServer(t), caddytest.NewAPIServer(t)
	c := caddytest.Run(t, connectSite)
	ann := newBrowser(t, "ann")

	sent := ann.get("/")
	if want := ann.base + "/connect/?client=partner"; sent.Status != http.StatusSeeOther || sent.Header.Get("Location") != want {
		t.Errorf("a browser is sent to %q with %d, want %q", sent.Header.Get("Location"), sent.Status, want)
	}
	program := c.Get("/", nil)
	if program.Status != http.StatusServiceUnavailable || !strings.Contains(program.Header.Get("Link"), "/connect/?client=partner") {
		t.Errorf("a program is answered with %d, %v: %s", program.Status, program.Header, program.Body)
	}
	if page := ann.get("/connect/?client=partner"); !strings.Contains(page.Body, "A request needed partner") {
		t.Errorf("the page does not say what somebody was sent for: %s", page.Body)
	}
	ann.wantPage("Not connected", "You are <span class=\"who\">ann</span>")

	back := ann.get(ann.agree("partner", "code-1"))
	if location := back.Header.Get("Location"); back.Status != http.StatusSeeOther || location != "/connect/" {
		t.Errorf("the callback is answered with %d to %q: %s", back.Status, location, back.Body)
	}
	ann.wantPage("partner is connected.", "Connected", "Disconnect partner", ">read<")
	if again := ann.get("/connect/"); strings.Contains(again.Body, "partner is connected.") {
		t.Error("the page says it twice")
	}
	c.Want(http.StatusOK)
	if got := api.LastAuthorization(t); got != "Bearer access-of-code-1" {
		t.Errorf("the API got %q", got)
	}
	if cookie := api.Last(t).Header.Get("Cookie"); ann.get("/").Status != http.StatusOK || api.Last(t).Header.Get("Cookie") != "" {
		t.Errorf("the API got the page's cookies: %q", cookie)
	}

	if question := ann.get("/connect/partner/disconnect"); question.Status != http.StatusOK || !strings.Contains(question.Body, "<h1>Disconnect partner?</h1>") || len(server.revocations()) > 0 {
		t.Errorf("it is not asked first: %d %s", question.Status, question.Body)
	}
	if gone := ann.post("partner/disconnect"); gone.Status != http.StatusSeeOther || gone.Header.Get("Location") != "/connect/" {
		t.Errorf("disconnecting is answered with %d: %s", gone.Status, gone.Body)
	}
	ann.wantPage("partner is disconnected.", "Not connected")
	if got := server.revocations(); !slices.Equal(got, []string{"refresh-of-code-1"}) {
		t.Errorf("revoked: %q", got)
	}
	c.Want(http.StatusServiceUnavailable)
}

// TestConnectOnesOwn: with accounts, each sees and connects their own.
func TestConnectOnesOwn(t *testing.T) {
	newPageServer(t)
	api := caddytest.NewAPIServer(t)
	caddytest.Run(t, connectSite)
	ann, bob := newBrowser(t, "ann"), newBrowser(t, "bob")
	for user, b := range map[string]*browser{"ann": ann, "bob": bob} {
		if back := b.get(b.agree("own", "code-of-"+user)); back.Status != http.StatusSeeOther {
			t.Fatalf("%d %s", back.Status, back.Body)
		}
		b.wantPage("own is connected.", `as `+user)
		if answer := b.get("/own/"); answer.Status != http.StatusOK || api.LastAuthorization(t) != "Bearer access-of-code-of-"+user {
			t.Errorf("%s: status %d, the API got %q", user, answer.Status, api.LastAuthorization(t))
		}
	}
	ann.post("own/disconnect")
	if answer := ann.get("/own/"); answer.Status != http.StatusSeeOther || answer.Header.Get("Location") != ann.base+"/connect/?client=own" {
		t.Errorf("ann, who has disconnected, gets %d to %q", answer.Status, answer.Header.Get("Location"))
	}
	if answer := bob.get("/own/"); answer.Status != http.StatusOK {
		t.Errorf("bob gets %d", answer.Status)
	}
}

// TestConnectDenied: somebody who does not agree is told so, at a clean address.
func TestConnectDenied(t *testing.T) {
	server := newPageServer(t)
	caddytest.NewAPIServer(t)
	caddytest.Run(t, connectSite)
	ann := newBrowser(t, "ann")
	path := strings.Replace(ann.agree("partner", "x"), "code=x", "error=access_denied", 1)
	if back := ann.get(path); back.Status != http.StatusSeeOther || back.Header.Get("Location") != "/connect/" {
		t.Errorf("answered with %d to %q", back.Status, back.Header.Get("Location"))
	}
	ann.wantPage("partner was not connected. Consent was denied.", "Not connected")
	if n := server.exchanges(); n != 0 {
		t.Errorf("%d codes were presented", n)
	}
}

// TestConnectForPrograms is the JSON twin.
func TestConnectForPrograms(t *testing.T) {
	newPageServer(t)
	caddytest.NewAPIServer(t)
	c := caddytest.Run(t, connectSite)
	ann := newBrowser(t, "ann")
	ann.get(ann.agree("partner", "code-1"))
	asProgram := func(r *http.Request) { r.Header.Set("Accept", "application/json") }

	answer := ann.send(http.MethodGet, "/connect/", nil, asProgram)
	var got struct {
		User    string
		Clients []struct {
			Client, Account, State, Scope string

			SignInURL string    `json:"sign_in_url"`
			ExpiresAt time.Time `json:"expires_at"`
		}
	}
	if err := json.Unmarshal([]byte(answer.Body), &got); err != nil || answer.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	if len(got.Clients) != 3 || got.User != "ann" {
		t.Fatalf("it says %s", answer.Body)
	}
	own, partner := got.Clients[1], got.Clients[2]
	if own.Client != "own" || own.Account != "ann" || own.State != "sign_in_needed" || own.SignInURL != ann.base+"/connect/?client=own" {
		t.Errorf("of own: %+v", own)
	}
	if partner.Client != "partner" || partner.State != "connected" || partner.Scope != "read" || time.Until(partner.ExpiresAt) <= 0 {
		t.Errorf("of partner: %+v", partner)
	}
	ann.user = ""
	if refused := ann.send(http.MethodGet, "/connect/", nil, asProgram); refused.Status != http.StatusForbidden || !json.Valid([]byte(refused.Body)) {
		t.Errorf("without a user: %d %s", refused.Status, refused.Body)
	}
	c.Want(http.StatusOK)
}

// TestConnectIsForSomebody: without a user there is advice and nothing else; the word
// anyone switches that off.
func TestConnectIsForSomebody(t *testing.T) {
	newPageServer(t)
	caddytest.NewAPIServer(t)
	c := caddytest.Run(t, connectSite)
	nobody := newBrowser(t, "")
	for _, path := range []string{"/connect/", "/connect/partner/disconnect", "/connect/partner/callback?state=a&code=b"} {
		answer := nobody.get(path)
		wantRefused(t, answer, http.StatusForbidden)
		if !strings.Contains(answer.Body, "Put authentication in front") {
			t.Errorf("there is no advice: %s", answer.Body)
		}
	}
	c.Reload(strings.Replace(connectSite, "user     {http.request.header.X-User}", "user anyone", 1))
	nobody.wantPage("<h1>Connections</h1>", "Not connected")
	nobody.get(nobody.agree("partner", "code-1"))
	nobody.wantPage("partner is connected.")
}

// TestConnectWithoutClients: the page says what would be on it, and needs no key.
func TestConnectWithoutClients(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	caddytest.Run(t, `
http://{$SITE} {
	rewrite /connect/* /moved
	upstream_oauth2_connect {
		base_url http://{$SITE}/connect
		user     {http.request.header.X-User}
	}
	reverse_proxy {$API}
}`)
	ann := newBrowser(t, "ann")
	ann.wantPage("Nothing to connect yet")
	if answer := ann.get("/connect"); answer.Status != http.StatusSeeOther || answer.Header.Get("Location") != "/connect/" {
		t.Errorf("without a slash: %d to %q", answer.Status, answer.Header.Get("Location"))
	}
	wantRefused(t, ann.get("/connect/nobody/connect"), http.StatusNotFound)
	if len(api.Seen()) > 0 {
		t.Errorf("the API was asked for %v", api.Seen())
	}
	if answer := ann.get("/connected"); answer.Body != "fine" {
		t.Errorf("another address: %d %s", answer.Status, answer.Body)
	}
}

// TestConnectAfterRestart: the way back may end at an instance that knows nothing of
// the way there.
func TestConnectAfterRestart(t *testing.T) {
	newPageServer(t)
	caddytest.NewAPIServer(t)
	c := caddytest.Run(t, connectSite)
	ann := newBrowser(t, "ann")
	back := ann.agree("partner", "code-1")
	c.Reload(connectSite)
	ann.get(back)
	ann.wantPage("partner is connected.")
	c.Want(http.StatusOK)
}
