package upstreamoauth2

import (
	"bufio"
	"context"
	"errors"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/terminal"
)

// withBrowser waits on loopback for a browser to come back (RFC 8252 section 7.3), and
// where there is none here, for its last address to be pasted.
func (l *login) withBrowser(ctx context.Context) (*signin.Result, error) {
	listener, redirectURI, err := l.open()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	pending, address, err := l.client.Begin(ctx, l.account, redirectURI)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(l.timeout)
	pending.Expires = end

	callback := &callback{pending: pending, arrived: make(chan arrival)}
	server := &http.Server{Handler: callback, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(closing) // when the browser has read its page
	}()

	note("\nSign in at this address:\n")
	note("%s\n", address)
	opens := !l.paste && !l.noBrowser && terminal.HasBrowser()
	if opens {
		if err := terminal.Open(address); err != nil {
			note("No browser could be opened (%v): open the address in one on this machine.", err)
		}
	} else {
		l.explain(redirectURI)
	}
	if !opens && !l.noBrowser {
		go callback.readPasted(ctx, os.Stdin)
		note("Waiting for the browser to come back, or its address")
	} else {
		stop := terminal.Countdown(os.Stderr, "Waiting for the browser to come back", end)
		defer stop()
	}

	select {
	case a := <-callback.arrived:
		// Once somebody has consented, the time is not up any more.
		result, err := l.client.Finish(context.WithoutCancel(ctx), pending, a.query, l.replace)
		a.answer <- err
		return result, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open opens the address at which the browser is waited for, and returns the redirect
// URI, whose host is spelled as --listen has it: servers compare it to the letter.
func (l *login) open() (net.Listener, string, error) {
	host, port := "127.0.0.1", "0"
	if l.listen != "" {
		var err error
		if host, port, err = net.SplitHostPort(l.listen); err != nil {
			return nil, "", usef("--listen: write an address such as 127.0.0.1:8400")
		}
	}
	ip := net.ParseIP(host)
	shown := host
	switch {
	case host == "", ip != nil && ip.IsUnspecified():
		shown = "127.0.0.1" // a container's port that is published on loopback
	case host != "localhost" && (ip == nil || !ip.IsLoopback()):
		return nil, "", usef("--listen: %s is not a loopback address; in a container write 0.0.0.0 and publish the port on 127.0.0.1", host)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, "", usef("--listen: %w", err)
	}
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return listener, "http://" + net.JoinHostPort(shown, port) + "/callback", nil
}

// explain says how a browser that is elsewhere comes back.
func (l *login) explain(redirectURI string) {
	u, _ := url.Parse(redirectURI) // is one
	if forward := terminal.SSHForward(u.Port()); forward != "" {
		note("The browser on your machine can come back through a tunnel. Start it there first:\n\n%s\n", forward)
	}
	if !l.noBrowser {
		note("A browser elsewhere may also fail to come back: then paste here the address\nthat it ends at, which begins with %s", redirectURI)
	}
}

// arrival is a response that belongs to the sign-in.
type arrival struct {
	query  string
	answer chan error // takes what came of it
}

// callback waits for the response to a sign-in.
type callback struct {
	pending *signin.Pending
	arrived chan arrival
}

// isResponse reports whether a query is the response, whatever it says.
func (c *callback) isResponse(query string) error {
	_, err := c.pending.Code(query)
	if failed, ok := errors.AsType[*authserver.Error](err); ok && failed.Kind == authserver.Unreadable {
		return err
	}
	return nil
}

// ServeHTTP implements http.Handler. What is no response to this sign-in does not end
// the waiting: anybody can make a browser come here.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path != "/callback" || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if err := c.isResponse(r.URL.RawQuery); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		_ = callbackPage.Execute(w, page{"Not this sign-in", err.Error()})
		return
	}
	a := arrival{r.URL.RawQuery, make(chan error, 1)}
	select {
	case c.arrived <- a:
	case <-r.Context().Done():
		return
	}
	if err := <-a.answer; err != nil {
		_ = callbackPage.Execute(w, page{"Not signed in", err.Error()})
		return
	}
	_ = callbackPage.Execute(w, page{"Signed in", "You can close this window."})
}

// readPasted takes the response from lines that somebody pastes.
func (c *callback) readPasted(ctx context.Context, from *os.File) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		_, query, _ := strings.Cut(line, "?")
		query, _, _ = strings.Cut(query, "#")
		if err := c.isResponse(query); err != nil {
			note("%v", err)
			continue
		}
		select {
		case c.arrived <- arrival{query, make(chan error, 1)}:
		case <-ctx.Done():
		}
		return
	}
}

type page struct{ Title, Text string }

// callbackPage is what the browser shows at the end.
var callbackPage = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>
:root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
body { max-width: 32rem; margin: 20vh auto; padding: 0 1.5rem }
</style>
<h1>{{.Title}}</h1>
<p>{{.Text}}</p>
</html>
`))
