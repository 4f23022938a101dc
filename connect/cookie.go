package connect

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// A cookie is sealed for its name and the page's host. On https its name has the
// prefix which has browsers see to it that no other host, and nothing that listens in,
// has set it (RFC 6265bis section 4.1.3.2).
const (
	cookiePrefix = "uo2-"
	hostPrefix   = "__Host-"
)

func (h *Handler) cookieName(name string) string {
	if h.base.secure {
		return hostPrefix + cookiePrefix + name
	}
	return cookiePrefix + name
}

// setCookie seals content into a cookie. The zero life is until the browser is closed.
func (v *visit) setCookie(name string, content any, life time.Duration) error {
	name = v.cookieName(name)
	value, err := v.app.Seal(content, "cookie", name, v.base.host)
	if err != nil {
		return err
	}
	http.SetCookie(v.w, v.cookie(name, value, int(life.Seconds())))
	return nil
}

// readCookie opens a cookie into content, and reports whether there is one of ours.
func (v *visit) readCookie(name string, content any) bool {
	name = v.cookieName(name)
	for _, c := range v.r.CookiesNamed(name) { // another host may have set one as well
		if v.app.Open(c.Value, content, "cookie", name, v.base.host) == nil {
			return true
		}
	}
	return false
}

func (v *visit) clearCookie(name string) {
	http.SetCookie(v.w, v.cookie(v.cookieName(name), "", -1))
}

// cookie is Lax and not Strict, as the browser comes back from another site.
func (v *visit) cookie(name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		Secure: v.base.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

// removeCookies takes all cookies of the page off a request that is for others.
func removeCookies(r *http.Request) {
	if !slices.ContainsFunc(r.Header["Cookie"], func(line string) bool { return strings.Contains(line, cookiePrefix) }) {
		return
	}
	var lines []string
	for _, line := range r.Header["Cookie"] {
		pairs := slices.DeleteFunc(strings.Split(line, ";"), func(pair string) bool {
			return strings.HasPrefix(strings.TrimPrefix(strings.TrimSpace(pair), hostPrefix), cookiePrefix)
		})
		if line = strings.TrimSpace(strings.Join(pairs, ";")); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		r.Header.Del("Cookie")
		return
	}
	r.Header["Cookie"] = lines
}
