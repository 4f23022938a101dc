package connect

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

//go:embed *.html style.css
var files embed.FS

// style is the stylesheet. It stands in each page, where its hash says to the browser
// that it is ours.
var style, styleHash = func() (template.CSS, string) {
	text, _ := files.ReadFile("style.css")
	sum := sha256.Sum256(text)
	return template.CSS(text), base64.StdEncoding.EncodeToString(sum[:])
}()

// The pages, each in the same frame.
var (
	clientsPage    = parse("clients.html")
	disconnectPage = parse("disconnect.html")
	refusalPage    = parse("refusal.html")
)

func parse(content string) *template.Template {
	return template.Must(template.ParseFS(files, "page.html", content))
}

// show answers with a page. Its forms may lead to the origins, beside our own.
func (v *visit) show(status int, page *template.Template, title string, content any, origins ...string) error {
	var body bytes.Buffer
	err := page.ExecuteTemplate(&body, "frame", struct {
		Title   string
		Style   template.CSS
		Content any
	}{title, style, content})
	if err != nil {
		return err
	}
	v.setHeaders(origins)
	v.write(status, "text/html; charset=utf-8", body.Bytes())
	return nil
}

// showJSON answers a program.
func (v *visit) showJSON(status int, content any) error {
	body, err := json.MarshalIndent(content, "", "\t")
	if err != nil {
		return err
	}
	v.setHeaders(nil)
	v.write(status, "application/json", append(body, '\n'))
	return nil
}

func (v *visit) write(status int, contentType string, body []byte) {
	v.w.Header().Set("Content-Type", contentType)
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(body) // to a caller who may have left
	}
}

// setHeaders has the browser load nothing, be framed by nobody, send no address to
// others and keep nothing. Chrome holds the redirect after a form against form-action
// too, so that has the origins where connecting leads.
func (v *visit) setHeaders(origins []string) {
	header := v.w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+styleHash+"'; base-uri 'none'; frame-ancestors 'none'; form-action "+
		strings.Join(append([]string{"'self'"}, origins...), " "))
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Add("Vary", "Accept, Cookie")
}

// originOf returns the origin of an endpoint, as a source of a Content-Security-Policy.
func originOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || strings.ContainsAny(u.Host, " ;,'\"") {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// wantsJSON reports whether the request is of a program: browsers accept text/html.
func (v *visit) wantsJSON() bool {
	accepts := func(mediaType string) bool {
		return slices.ContainsFunc(v.r.Header["Accept"], func(line string) bool { return strings.Contains(line, mediaType) })
	}
	return accepts("application/json") && !accepts("text/html")
}
