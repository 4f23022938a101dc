package connect

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"time"
)

const (
	sessionCookie = "page"

	// sessionLife is how long a form that was loaded is believed.
	sessionLife = 12 * time.Hour
)

// session is what the page knows of a browser, in a cookie: what its forms prove
// themselves with, and what is to be said on the next page.
type session struct {
	Token   string    `json:"token"`
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
	Notice  *notice   `json:"notice,omitempty"`
}

// openSession reads the session, or begins one: for another user, too.
func (v *visit) openSession() error {
	var s session
	if v.readCookie(sessionCookie, &s) && s.User == v.user && time.Until(s.Expires) > 0 {
		v.session = s
		if time.Until(s.Expires) > sessionLife/2 {
			return nil
		}
		v.session.Expires = time.Now().Add(sessionLife) // forms in other tabs stay good
		return v.saveSession()
	}
	v.session = session{Token: rand.Text(), User: v.user, Expires: time.Now().Add(sessionLife)}
	return v.saveSession()
}

func (v *visit) saveSession() error { return v.setCookie(sessionCookie, v.session, 0) }

// takeNotice returns what is to be said on this page, once.
func (v *visit) takeNotice() *notice {
	said := v.session.Notice
	if said == nil {
		return nil
	}
	v.session.Notice = nil
	_ = v.saveSession() // a session could be sealed before
	return said
}

// say has the next page say something.
func (v *visit) say(tone, text string) {
	v.session.Notice = &notice{Tone: tone, Text: text}
	_ = v.saveSession()
}

// fromThePage reports whether a POST comes from a form of this page, in the browser
// and of the user it was made for.
func (v *visit) fromThePage() bool {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 4<<10)
	token := v.r.PostFormValue("token")
	return v.sameOrigin() && subtle.ConstantTimeCompare([]byte(token), []byte(v.session.Token)) == 1
}

// sameOrigin reports whether the browser says that a POST comes from this site. A page
// without referrers has browsers write "null" for the origin of its forms (Fetch
// section 3.2), so Sec-Fetch-Site, where there is one, is what counts.
func (v *visit) sameOrigin() bool {
	origin := v.r.Header.Get("Origin")
	if site := v.r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" && (origin == "" || origin == "null" || origin == v.base.origin)
	}
	return origin == v.base.origin
}
