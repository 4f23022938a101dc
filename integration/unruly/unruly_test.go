// Package unruly is about authorization servers that misbehave. Each row of the
// table is one server, what it does to a token request, and what comes of it:
// a token of a certain lifetime or an error, the status that a caller of the
// proxy gets, and how many token requests arrive at the server.
//
// All of it runs in a real Caddy, configured by a Caddyfile, with one route
// for each row. The servers are sockets that speak as much TLS, HTTP or DNS
// as the row wants, so that they can misbehave below HTTP. A caller asks for
// each route at once; the rows are judged by what the callers got, what
// reached the API behind the proxy, and what stands in Caddy's log.
package unruly

import (
	"testing"
	"time"

	"golang.org/x/net/http2"

	_ "github.com/upstream-oauth2/caddy-upstream-oauth2"
)

// The credentials of the rows. Nothing else in a log line looks like them.
const (
	clientID     = "unruly-client"
	clientSecret = "kQ3vYxT8mB5nWc2RzJ7h"
	accessToken  = "fT6wZs1pLd9gVe4uXq0a"
)

func TestUnrulyAuthorizationServers(t *testing.T) {
	for _, section := range table() {
		t.Run(section.name, func(t *testing.T) {
			lab := newLab(t, section.rows)
			lab.load(t)
			results := lab.each(lab.call)
			lab.stop(t)
			for i, row := range section.rows {
				t.Run(row.name, func(t *testing.T) {
					row.want.check(t, results[i])
					lab.checkLog(t, row.name)
				})
			}
			lab.checkLog(t, "")
			lab.checkElsewhere(t)
		})
	}
}

// A renewal that goes wrong is no caller's concern while the token in hand has
// life left. Each row's first token lives ten seconds and is renewed within
// one; the row is about the requests after the first.
func TestUnrulyRenewals(t *testing.T) {
	const (
		first   = `{"access_token":"` + accessToken + `","expires_in":10}`
		renewed = `{"access_token":"renewed","expires_in":3600}`
	)
	ok := func(body string) string { return "HTTP/1.1 200 OK\r\n" + contentLength(body) + "\r\n" + body }
	// then answers all but the first request, n counting from 2; when it
	// returns, the connection is closed.
	renews := func(then func(c *conn, n int)) server {
		return as.does(func(c *conn) {
			for c.request() {
				if n, _ := c.endpoint.count(); n > 1 {
					then(c, n)
					return
				}
				c.send(ok(first))
			}
		}).with("refresh_ahead 90%")
	}
	renewsH2 := func(then func(c *h2Conn, stream uint32, n int)) server {
		return as.h2(func(c *h2Conn) {
			for stream := c.next(); stream != 0; stream = c.next() {
				if n, _ := c.endpoint.count(); n > 1 {
					then(c, stream, n)
				} else {
					c.answer(stream, "200", first)
				}
			}
		}).with("refresh_ahead 90%")
	}
	says := func(answer string) server {
		return renews(func(c *conn, _ int) { c.send(answer) })
	}
	renewal, served := gets.token(time.Hour).called("renewed"), gets.token(10*time.Second)

	rows := []row{
		{"good", says(ok(renewed)), renewal.after(2)},
		{"connection closed", renews(func(*conn, int) {}), served.after(2)},
		{"connection reset", renews(func(c *conn, _ int) { c.reset() }), served.after(2)},
		{"closed in the answer", says("HTTP/1.1 200 OK\r\nContent-Le"), served.after(2)},
		{"500", says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), served.after(2)},
		{"nonsense", says("nonsense\r\n\r\n"), served.after(2)},
		{"no token", says(ok("{}")), served.after(2)},
		{"token of another type", says(ok(`{"access_token":"renewed","token_type":"mac"}`)), served.after(2)},
		{"invalid_client", says(ok(`{"error":"invalid_client"}`)), served.after(2)},
		{"stall", renews(func(c *conn, _ int) { c.hold() }), served.after(2).in(stall)},
		{"token in hand in error_description", says(ok(`{"error":"invalid_client","error_description":"you have ` + accessToken + `"}`)), served.after(2)},
		{"token in hand as status line", says(accessToken + "\r\n\r\n"), served.after(2)},

		{"HTTP/2, good", renewsH2(func(c *h2Conn, stream uint32, _ int) { c.answer(stream, "200", renewed) }), renewal.after(2)},
		{"HTTP/2, GOAWAY in between", as.h2(func(c *h2Conn) {
			if c.number > 1 {
				c.answer(c.next(), "200", renewed)
				return
			}
			stream := c.next()
			c.answer(stream, "200", first)
			c.check(c.WriteGoAway(stream, http2.ErrCodeNo, nil))
		}).with("refresh_ahead 90%"), renewal.after(2)},
		{"HTTP/2, connection closed", renewsH2(func(c *h2Conn, _ uint32, _ int) { _ = c.Close() }), served.after(2)},
		{"HTTP/2, GOAWAY that saw nothing", renewsH2(func(c *h2Conn, stream uint32, n int) {
			if n > 2 {
				c.answer(stream, "200", renewed)
			} else {
				c.check(c.WriteGoAway(0, http2.ErrCodeNo, nil))
			}
		}), renewal.after(3)},
		{"HTTP/2, RST_STREAM after the header", renewsH2(func(c *h2Conn, stream uint32, _ int) {
			c.header(stream, false, ":status", "200")
			c.check(c.WriteRSTStream(stream, http2.ErrCodeInternal))
		}), served.after(2)},
	}

	lab := newLab(t, rows)
	lab.load(t)
	results := lab.each(lab.callAgain)
	lab.stop(t)
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			row.want.checkRenewal(t, results[i])
			lab.checkLog(t, row.name)
		})
	}
	lab.checkLog(t, "")
}
