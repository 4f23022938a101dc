package integration

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// attacked is a page that is under attack, with somebody's browser.
type attacked struct {
	server *pageServer
	api    *caddytest.APIServer
	caddy  *caddytest.Caddy
	ann    *browser
}

func newAttacked(t *testing.T) attacked {
	a := attacked{server: newPageServer(t), api: caddytest.NewAPIServer(t)}
	a.caddy = caddytest.Run(t, connectSite)
	a.ann = newBrowser(t, "ann")
	return a
}

// wantNothing fails the test if a code was presented, or somebody was connected.
func (a attacked) wantNothing(t *testing.T) {
	t.Helper()
	if n := a.server.exchanges(); n != 0 {
		t.Errorf("%d codes were presented", n)
	}
	a.caddy.Want(http.StatusServiceUnavailable)
}

// TestAttackForgedState: a state that was not made here, or is changed.
func TestAttackForgedState(t *testing.T) {
	a := newAttacked(t)
	back := a.ann.agree("partner", "code-1")
	path, query, _ := strings.Cut(back, "?")
	right, _ := url.ParseQuery(query)
	for _, state := range []string{"", "forged", right.Get("state") + "x", strings.ToLower(right.Get("state"))} {
		wantRefused(t, a.ann.get(path+"?"+url.Values{"state": {state}, "code": {"stolen"}, "iss": right["iss"]}.Encode()), http.StatusBadRequest)
	}
	wantRefused(t, a.ann.get(back+"&state=forged"), http.StatusBadRequest)
	a.wantNothing(t)
	a.ann.get(back) // which none of that has spoilt
	a.ann.wantPage("partner is connected.")
}

// TestAttackForeignCookie: a flow that began in another browser, which lured this one
// to its callback, and a cookie that was made up.
func TestAttackForeignCookie(t *testing.T) {
	a := newAttacked(t)
	mallory := newBrowser(t, "mallory")
	back := mallory.agree("partner", "code-of-mallory")
	wantRefused(t, a.ann.get(back), http.StatusBadRequest)

	site, _ := url.Parse(a.ann.base)
	for _, cookie := range mallory.http.Jar.Cookies(site) { // planted in ann's
		a.ann.http.Jar.SetCookies(site, []*http.Cookie{{Name: cookie.Name, Value: cookie.Value, Path: "/"}})
	}
	wantRefused(t, a.ann.get(back), http.StatusForbidden)

	name, _ := flowCookieOf(t, mallory)
	a.ann.http.Jar.SetCookies(site, []*http.Cookie{{Name: name, Value: "bWFkZSB1cA", Path: "/"}})
	wantRefused(t, a.ann.get(back), http.StatusBadRequest)
	a.wantNothing(t)
}

// flowCookieOf returns the cookie of the sign-in that is under way in a browser.
func flowCookieOf(t *testing.T, b *browser) (name, value string) {
	site, _ := url.Parse(b.base)
	for _, cookie := range b.http.Jar.Cookies(site) {
		if cookie.Name != "uo2-page" {
			return cookie.Name, cookie.Value
		}
	}
	t.Fatal("there is no sign-in under way")
	return "", ""
}

// forgeries are how another site submits a form, each with what it cannot have left
// wrong, and all else right.
var forgeries = map[string]func(*http.Request){
	"of another site":  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	"of a site beside": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
	"of another origin": func(r *http.Request) {
		r.Header.Del("Sec-Fetch-Site")
		r.Header.Set("Origin", "https://evil.example")
	},
	"of no origin": func(r *http.Request) {
		r.Header.Del("Sec-Fetch-Site")
		r.Header.Del("Origin")
	},
	"of another user": func(r *http.Request) { r.Header.Set("X-User", "bob") },
}

// TestAttackForgedConnect is CSRF on Connect.
func TestAttackForgedConnect(t *testing.T) {
	a := newAttacked(t)
	for name, forge := range forgeries {
		answer := a.ann.post("partner/connect", forge)
		if wantRefused(t, answer, http.StatusForbidden); t.Failed() {
			t.Fatal(name)
		}
	}
	for _, token := range []string{"", "guessed"} {
		wantRefused(t, a.ann.send(http.MethodPost, "/connect/partner/connect", url.Values{"token": {token}}), http.StatusForbidden)
	}
	token := formToken.FindStringSubmatch(a.ann.get("/connect/").Body)[1]
	for _, user := range []string{"ann", "bob"} { // in a browser without the cookie
		wantRefused(t, newBrowser(t, user).send(http.MethodPost, "/connect/partner/connect", url.Values{"token": {token}}), http.StatusForbidden)
	}
	if answer := a.ann.get("/connect/partner/connect"); answer.Status != http.StatusSeeOther || !strings.HasPrefix(answer.Header.Get("Location"), a.ann.base+"/connect/") {
		t.Errorf("a link begins a sign-in: %d to %q", answer.Status, answer.Header.Get("Location"))
	}
	a.wantNothing(t)
}

// TestAttackForgedDisconnect is CSRF on Disconnect.
func TestAttackForgedDisconnect(t *testing.T) {
	a := newAttacked(t)
	a.ann.get(a.ann.agree("partner", "code-1"))
	for name, forge := range forgeries {
		answer := a.ann.post("partner/disconnect", forge)
		if wantRefused(t, answer, http.StatusForbidden); t.Failed() {
			t.Fatal(name)
		}
	}
	wantRefused(t, a.ann.send(http.MethodPost, "/connect/partner/disconnect", nil), http.StatusForbidden)
	a.ann.get("/connect/partner/disconnect")
	a.caddy.Want(http.StatusOK)
	if got := a.server.revocations(); len(got) > 0 {
		t.Errorf("revoked: %q", got)
	}
}

// TestAttackOpenRedirect: nothing in a request says where the browser goes.
func TestAttackOpenRedirect(t *testing.T) {
	a := newAttacked(t)
	const evil = "https://evil.example"
	paths := []string{
		"/connect?next=" + evil, "/connect//evil.example", "/connect/%2F%2Fevil.example/connect", `/connect/\evil.example`,
		"/connect/partner/connect?redirect_uri=" + evil, "/connect/" + evil + "/connect", "/connect/?client=" + evil,
		a.ann.agree("partner", "code-1") + "&return_to=" + evil + "&redirect_uri=" + evil,
	}
	for _, path := range paths {
		answer := a.ann.send(http.MethodGet, path, nil, func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "evil.example") })
		if location := answer.Header.Get("Location"); strings.Contains(location, "evil") || strings.HasPrefix(location, "//") {
			t.Errorf("%s leads to %q", path, location)
		}
		if strings.Contains(answer.Body, "evil.example") {
			t.Errorf("%s is shown: %s", path, answer.Body)
		}
	}
	answer := a.ann.post("partner/connect?redirect_uri="+evil, func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "evil.example") })
	location, _ := url.Parse(answer.Header.Get("Location"))
	if got, want := location.Query().Get("redirect_uri"), a.ann.base+"/connect/partner/callback"; got != want {
		t.Errorf("the redirect URI is %q, want %q", got, want)
	}
}

// TestAttackMixUp: the code of another server, by its iss or by another client's path.
func TestAttackMixUp(t *testing.T) {
	a := newAttacked(t)
	back := a.ann.agree("partner", "code-1")
	issuer := url.QueryEscape(os.Getenv("ISSUER"))
	if !strings.Contains(back, issuer) {
		t.Fatal(back)
	}
	wantRefused(t, a.ann.get(strings.Replace(back, issuer, "https%3A%2F%2Fevil.example", 1)), http.StatusBadRequest)
	wantRefused(t, a.ann.get(strings.Replace(back, "iss="+issuer, "", 1)), http.StatusBadRequest)
	for _, client := range []string{"/other/", "/own/"} {
		wantRefused(t, a.ann.get(strings.Replace(back, "/partner/", client, 1)), http.StatusForbidden)
	}
	a.wantNothing(t)
}

// TestAttackInjectedCode: a code that was stolen in another sign-in goes with this
// one's verifier, and the server rejects it (RFC 7636).
func TestAttackInjectedCode(t *testing.T) {
	a := newAttacked(t)
	location, _ := url.Parse(newBrowser(t, "bob").post("partner/connect").Header.Get("Location"))
	if method := location.Query().Get("code_challenge_method"); method != "S256" {
		t.Errorf("the challenge's method is %q", method)
	}
	a.server.issuedFor("stolen", location.Query().Get("code_challenge"))
	a.ann.get(a.ann.agree("partner", "stolen"))
	a.ann.wantPage("partner was not connected. It took too long, or the code was used before.")
	a.caddy.Want(http.StatusServiceUnavailable)
}

// TestAttackClickjacking: every page forbids frames, scripts and foreign forms.
func TestAttackClickjacking(t *testing.T) {
	a := newAttacked(t)
	answers := map[string]caddytest.Answer{
		"the page":     a.ann.get("/connect/"),
		"the question": a.ann.get("/connect/partner/disconnect"),
		"a refusal":    a.ann.get("/connect/nobody/here"),
		"a redirect":   a.ann.get("/connect"),
		"a callback":   a.ann.get("/connect/partner/callback"),
		"the JSON":     a.ann.send(http.MethodGet, "/connect/", nil, func(r *http.Request) { r.Header.Set("Accept", "application/json") }),
	}
	for name, answer := range answers {
		policy := answer.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "style-src 'sha256-", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: the policy is %q, without %q", name, policy, want)
			}
		}
		for field, want := range map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if got := answer.Header.Get(field); got != want {
				t.Errorf("%s: %s is %q, want %q", name, field, got, want)
			}
		}
		if strings.Contains(answer.Body, "<script") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s has a script", name)
		}
	}
	if policy := answers["the page"].Header.Get("Content-Security-Policy"); !strings.HasSuffix(policy, "form-action 'self' https://login.partner.example") {
		t.Errorf("the forms may lead to: %q", policy)
	}
}

// TestAttackScript: what a server, a user or an address says is text.
func TestAttackScript(t *testing.T) {
	a := newAttacked(t)
	const script = `<script>alert(1)</script>`
	a.ann.user = script
	a.server.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.PostForm.Get("code") != "" {
			caddytest.Say(w, http.StatusOK, `{"access_token":"a","refresh_token":"r","token_type":"Bearer","expires_in":3600,"scope":"<script>alert(1)</script> \"onload=x"}`)
			return
		}
		a.server.answer(w, r)
	})
	wantNone := func(answer caddytest.Answer) {
		t.Helper()
		if strings.Contains(answer.Body, "<script") {
			t.Errorf("a script is shown: %s", answer.Body)
		}
	}
	query := url.QueryEscape(script)
	wantNone(a.ann.get("/connect/?client=" + query))
	wantNone(a.ann.get("/connect/" + url.PathEscape(script) + "/disconnect"))
	wantNone(a.ann.get("/connect/partner/callback?error=" + query + "&error_description=" + query))
	denied := strings.Replace(a.ann.agree("partner", "x"), "code=x", "error="+query+"&error_description="+query, 1)
	a.ann.get(denied)
	wantNone(a.ann.get("/connect/"))
	a.ann.get(a.ann.agree("partner", "y"))
	page := a.ann.get("/connect/")
	wantNone(page)
	if !strings.Contains(page.Body, "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Errorf("the user and the scope are not shown as text: %s", page.Body)
	}

	named := strings.ReplaceAll(connectSite, "client partner {", `client "<script>" {`)
	named = strings.ReplaceAll(named, "upstream_oauth2 partner", `upstream_oauth2 "<script>"`)
	if err := a.caddy.TryReload(named); err == nil || !strings.Contains(err.Error(), "give it one of letters, digits, - and _") {
		t.Errorf("a client with such a name: %v", err)
	}
}

// TestAttackSwitchedAccount: who comes back is somebody else than who left.
func TestAttackSwitchedAccount(t *testing.T) {
	a := newAttacked(t)
	for _, client := range []string{"partner", "own"} {
		back := a.ann.agree(client, "code-of-ann")
		a.ann.user = "bob"
		wantRefused(t, a.ann.get(back), http.StatusForbidden)
		a.ann.user = "ann"
	}
	a.wantNothing(t)
}

// TestAttackReplayedCookie: a callback that comes again, with its cookie, presents no
// code and changes nothing.
func TestAttackReplayedCookie(t *testing.T) {
	a := newAttacked(t)
	back := a.ann.agree("partner", "code-1")
	name, value := flowCookieOf(t, a.ann)
	a.ann.get(back)
	a.ann.wantPage("partner is connected.")
	wantRefused(t, a.ann.get(back), http.StatusBadRequest) // without its cookie, which is gone

	site, _ := url.Parse(a.ann.base)
	a.ann.http.Jar.SetCookies(site, []*http.Cookie{{Name: name, Value: value, Path: "/"}})
	if again := a.ann.get(back); again.Status != http.StatusSeeOther || again.Header.Get("Location") != "/connect/" {
		t.Errorf("with its cookie: %d to %q", again.Status, again.Header.Get("Location"))
	}
	if n := a.server.exchanges(); n != 1 {
		t.Errorf("%d codes were presented, want 1", n)
	}
	a.caddy.Want(http.StatusOK)

	wantRefused(t, a.ann.send(http.MethodPost, "/connect/partner/disconnect", url.Values{"token": {"of another page"}}), http.StatusForbidden)
}
