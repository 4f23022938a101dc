package unruly

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	_ "github.com/upstream-oauth2/caddy-upstream-oauth2"
)

// This file is about authorization servers that misbehave. Each row of the
// table is one server, what it does to a token request, and what comes of it:
// a token of a certain lifetime or an error, the status that a caller of the
// proxy gets, and how many token requests arrive at the server.
//
// All of it runs in a real Caddy, configured by a Caddyfile, with one route
// for each row. The servers are sockets that speak as much TLS, HTTP or DNS
// as the row wants, so that they can misbehave below HTTP. A caller asks for
// each route at once; the rows are judged by what the callers got, what
// reached the API behind the proxy, and what stands in Caddy's log.

// The credentials of the rows. Nothing else in a log line looks like them.
const (
	unrulyID     = "unruly-client"
	unrulySecret = "kQ3vYxT8mB5nWc2RzJ7h"
	unrulyToken  = "fT6wZs1pLd9gVe4uXq0a"
)

// The names that a row is written with: as.json(…) is a server, gets.token(…)
// what comes of it.
var (
	as   unrulyServers
	gets unrulyWants
)

func TestUnrulyAuthorizationServers(t *testing.T) {
	for _, section := range unrulyTable() {
		t.Run(section.name, func(t *testing.T) {
			lab := newUnrulyLab(t, section.rows)
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

type unrulySection struct {
	name string
	rows []unrulyRow
}

// unrulyRow is one line of the table.
type unrulyRow struct {
	name   string
	server unrulyServer
	want   unrulyWant
}

func unrulyTable() []unrulySection {
	const second, hour, year = time.Second, time.Hour, 365 * 24 * time.Hour

	const stall = unrulyStall
	answers := unrulyAnswers
	good := as.members(`"expires_in":3600`)
	goodHTTP := "HTTP/1.1 200 OK\r\n" + unrulyLength(unrulyGood) + "\r\n" + unrulyGood

	return []unrulySection{
		{"statuses", []unrulyRow{
			{"200", good, gets.token(hour)},
			{"201", as.status(201, unrulyGood), gets.token(hour)},
			{"202", as.status(202, unrulyGood), gets.token(hour)},
			{"203", as.status(203, unrulyGood), gets.token(hour)},
			{"206", as.status(206, unrulyGood), gets.token(hour)},
			{"299", as.status(299, unrulyGood), gets.token(hour)},
			{"200 without a body", as.status(200, ""), gets.unusable()},
			{"201 without a body", as.status(201, ""), gets.unusable()},
			{"204", as.says("HTTP/1.1 204 No Content\r\n\r\n"), gets.unusable()},
			{"205", as.says("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"), gets.unusable()},
			{"99", as.status(99, unrulyGood), gets.unusable()},
			{"400 without a body", as.status(400, ""), gets.unusable()},
			{"400 with other JSON", as.status(400, `{"message":"no"}`), gets.unusable()},
			{"400 with a token", as.status(400, unrulyGood), gets.unusable()},
			{"400 with a code", as.status(400, `{"error":"invalid_request"}`), gets.refused("invalid_request")},
			{"401 without a body", as.status(401, ""), gets.unusable()},
			{"401 with a code", as.status(401, `{"error":"invalid_client"}`), gets.refused("invalid_client")},
			{"403 of a firewall", as.status(403, "Access denied"), gets.unusable()},
			{"403 with a code", as.status(403, `{"error":"invalid_grant"}`), gets.refused("invalid_grant")},
			{"404", as.status(404, "404 page not found"), gets.unusable()},
			{"405", as.status(405, ""), gets.unusable()},
			{"407", as.status(407, ""), gets.unusable()},
			{"408", as.status(408, ""), gets.unusable()},
			{"410 with a token", as.status(410, unrulyGood), gets.unusable()},
			{"415", as.status(415, `{"error":"unsupported_media_type"}`), gets.refused("unsupported_media_type")},
			{"429 without a body", as.status(429, ""), gets.unavailable("")},
			{"429 with a code", as.status(429, `{"error":"slow_down"}`), gets.unavailable("slow_down")},
			{"429 with a token", as.status(429, unrulyGood), gets.unavailable("")},
			{"451", as.status(451, "<html>"), gets.unusable()},
			{"499", as.status(499, ""), gets.unusable()},
			{"500 without a body", as.status(500, ""), gets.unavailable("")},
			{"500 with a code", as.status(500, `{"error":"invalid_client"}`), gets.unavailable("invalid_client")},
			{"500 with a token", as.status(500, unrulyGood), gets.unavailable("")},
			{"501", as.status(501, ""), gets.unavailable("")},
			{"502 with a web page", as.status(502, "<html>Bad gateway</html>"), gets.unavailable("")},
			{"503", as.status(503, ""), gets.unavailable("")},
			{"504", as.status(504, ""), gets.unavailable("")},
			{"520", as.status(520, "error code: 520"), gets.unavailable("")},
			{"599", as.status(599, ""), gets.unavailable("")},
			{"999", as.status(999, ""), gets.unavailable("")},
		}},

		{"redirects", []unrulyRow{
			{"300 without a Location", as.status(300, ""), gets.unusable()},
			{"301 to the same host", as.redirects(301, "/elsewhere"), gets.unusable()},
			{"302 to the same host", as.redirects(302, "/elsewhere"), gets.unusable()},
			{"303 to the same host", as.redirects(303, "/elsewhere"), gets.unusable()},
			{"307 to the same host", as.redirects(307, "/elsewhere"), gets.unusable()},
			{"308 to the same host", as.redirects(308, "/elsewhere"), gets.unusable()},
			{"301 to another host", as.redirects(301, "http://OTHER/token"), gets.unusable()},
			{"302 to another host", as.redirects(302, "http://OTHER/token"), gets.unusable()},
			{"303 to another host", as.redirects(303, "http://OTHER/token"), gets.unusable()},
			{"307 to another host", as.redirects(307, "http://OTHER/token"), gets.unusable()},
			{"308 to another host", as.redirects(308, "http://OTHER/token"), gets.unusable()},
			{"307 to another host, without a scheme", as.redirects(307, "//OTHER/token"), gets.unusable()},
			{"307 to another host, by https", as.redirects(307, "https://OTHER/token"), gets.unusable()},
			{"307 with a token", as.says("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://OTHER/\r\n" + unrulyLength(unrulyGood) + "\r\n" + unrulyGood), gets.unusable()},
			{"307 from https to http", as.tls("good", answers("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://OTHER/\r\nContent-Length: 0\r\n\r\n")), gets.unusable()},
			{"307 to nowhere", as.redirects(307, "http://%zz/"), gets.unusable()},
			{"304", as.says("HTTP/1.1 304 Not Modified\r\n\r\n"), gets.unusable()},
			{"200 with a Location", as.fields("Location: http://OTHER/token", unrulyGood), gets.token(hour)},
			{"200 with a Refresh", as.fields("Refresh: 0; url=http://OTHER/token", unrulyGood), gets.token(hour)},
		}},

		{"content types", []unrulyRow{
			{"JSON", as.fields("Content-Type: application/json", unrulyGood), gets.token(hour)},
			{"JSON with a charset", as.fields("Content-Type: application/json; charset=utf-8", unrulyGood), gets.token(hour)},
			{"JSON as text", as.fields("Content-Type: text/plain", unrulyGood), gets.token(hour)},
			{"JSON as a web page", as.fields("Content-Type: text/html", unrulyGood), gets.token(hour)},
			{"JSON as a form", as.fields("Content-Type: application/x-www-form-urlencoded", unrulyGood), gets.token(hour)},
			{"JSON as an image", as.fields("Content-Type: image/png", unrulyGood), gets.token(hour)},
			{"JSON without a type", as.fields("X: y", unrulyGood), gets.token(hour)},
			{"JSON with an empty type", as.fields("Content-Type:", unrulyGood), gets.token(hour)},
			{"JSON with a type that is none", as.fields("Content-Type: ;;;=;", unrulyGood), gets.token(hour)},
			{"JSON with two types", as.fields("Content-Type: text/html\r\nContent-Type: application/json", unrulyGood), gets.token(hour)},
			{"form", as.fields("Content-Type: application/x-www-form-urlencoded", unrulyForm), gets.token(hour)},
			{"form as text", as.fields("Content-Type: text/plain", unrulyForm), gets.token(hour)},
			{"form as JSON", as.fields("Content-Type: application/json", unrulyForm), gets.token(hour)},
			{"form without a type", as.fields("X: y", unrulyForm), gets.token(hour)},
			{"web page as JSON", as.fields("Content-Type: application/json", "<html>Sign in</html>"), gets.unusable()},
		}},

		{"encodings", []unrulyRow{
			{"gzip", as.fields("Content-Encoding: gzip", unrulyGzip(unrulyGood)), gets.token(hour)},
			{"gzip in capitals", as.fields("Content-Encoding: GZIP", unrulyGzip(unrulyGood)), gets.token(hour)},
			{"gzip in two members", as.fields("Content-Encoding: gzip", unrulyGzip(unrulyGood[:9])+unrulyGzip(unrulyGood[9:])), gets.token(hour)},
			{"gzip that is none", as.fields("Content-Encoding: gzip", unrulyGood), gets.unusable()},
			{"gzip of nothing", as.fields("Content-Encoding: gzip", unrulyGzip("")), gets.unusable()},
			{"gzip without a byte", as.fields("Content-Encoding: gzip", ""), gets.unusable()},
			{"gzip cut short", as.fields("Content-Encoding: gzip", unrulyGzip(unrulyGood)[:30]), gets.unavailable("")},
			{"gzip with a wrong checksum", as.fields("Content-Encoding: gzip", unrulyGzip(unrulyGood)[:len(unrulyGzip(unrulyGood))-8]+"12345678"), gets.unusable()},
			{"gzip in gzip", as.fields("Content-Encoding: gzip", unrulyGzip(unrulyGzip(unrulyGood))), gets.unusable()},
			{"gzip without the field", as.json(unrulyGzip(unrulyGood)), gets.unusable()},
			{"gzip bomb", as.fields("Content-Encoding: gzip", unrulyGzip(strings.Repeat(" ", 8<<20)+unrulyGood)), gets.unusable()},
			{"gzip bomb behind a token", as.fields("Content-Encoding: gzip", unrulyGzip(unrulyGood+strings.Repeat(" ", 8<<20))), gets.unusable()},
			{"deflate", as.fields("Content-Encoding: deflate", "\x78\x9c\xab\x56\x4a\x4c\x4e\x4e"), gets.unusable()},
			{"br", as.fields("Content-Encoding: br", "\x0b\x02\x80{}\x03"), gets.unusable()},
			{"identity", as.fields("Content-Encoding: identity", unrulyGood), gets.token(hour)},
			{"an unknown one that changes nothing", as.fields("Content-Encoding: x-none", unrulyGood), gets.token(hour)},
			{"gzip as Transfer-Encoding", as.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), gets.unavailable("")},
		}},

		{"bodies", []unrulyRow{
			{"empty", as.json(``), gets.unusable()},
			{"white space", as.json(" \r\n"), gets.unusable()},
			{"byte order mark and JSON", as.json("\xef\xbb\xbf" + unrulyGood), gets.token(hour)},
			{"byte order mark alone", as.json("\xef\xbb\xbf"), gets.unusable()},
			{"white space and JSON", as.json("\r\n\t " + unrulyGood + "\r\n"), gets.token(hour)},
			{"900 KiB of other members", as.members(`"expires_in":3600,"groups":"` + strings.Repeat("g", 900<<10) + `"`), gets.token(hour)},
			{"2 MiB of other members", as.members(`"expires_in":3600,"groups":"` + strings.Repeat("g", 2<<20) + `"`), gets.unusable()},
			{"empty object", as.json(`{}`), gets.unusable()},
			{"null", as.json(`null`), gets.unusable()},
			{"list", as.json(`[` + unrulyGood + `]`), gets.unusable()},
			{"string", as.json(`"` + unrulyToken + `"`), gets.unusable()},
			{"number", as.json(`42`), gets.unusable()},
			{"the token alone", as.json(unrulyToken), gets.unusable()},
			{"web page", as.json("<!DOCTYPE html><html>"), gets.unusable()},
			{"XML", as.json("<?xml version='1.0'?><t/>"), gets.unusable()},
			{"bytes", as.json("\x00\x01\xfe\xff"), gets.unusable()},
			{"UTF-16", as.json("\xff\xfe{\x00}\x00"), gets.unusable()},
			{"cut in the token", as.json(`{"access_token":"` + unrulyToken), gets.unusable()},
			{"cut behind the token", as.json(`{"access_token":"` + unrulyToken + `"`), gets.unusable()},
			{"a comma too many", as.json(`{"access_token":"` + unrulyToken + `",}`), gets.unusable()},
			{"single quotes", as.json(`{'access_token':'` + unrulyToken + `'}`), gets.unusable()},
			{"comment", as.json(unrulyGood + `/* node 7 */`), gets.unusable()},
			{"twice", as.json(unrulyGood + unrulyGood), gets.unusable()},
			{"one level down", as.json(`{"data":` + unrulyGood + `}`), gets.unusable()},
			{"nested without end", as.json(`{"x":` + strings.Repeat(`[`, 200_000)), gets.unusable()},
			{"form with a broken escape", as.json("access_token=%zz"), gets.unusable()},
			{"form without a token", as.json("token_type=bearer"), gets.unusable()},
		}},

		{"framing", []unrulyRow{
			{"until the connection closes", as.saysAndCloses("HTTP/1.1 200 OK\r\n\r\n" + unrulyGood), gets.token(hour)},
			{"until the connection closes, cut", as.saysAndCloses("HTTP/1.1 200 OK\r\n\r\n" + unrulyGood[:30]), gets.unusable()},
			{"HTTP/1.0", as.saysAndCloses("HTTP/1.0 200 OK\r\n\r\n" + unrulyGood), gets.token(hour)},
			{"Content-Length too large", as.saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + unrulyGood), gets.unavailable("")},
			{"Content-Length too small", as.saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + unrulyGood), gets.unusable()},
			{"Content-Length 0", as.says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + unrulyGood), gets.unusable()},
			{"Content-Length below zero", as.says("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + unrulyGood), gets.unavailable("")},
			{"Content-Length a word", as.says("HTTP/1.1 200 OK\r\nContent-Length: all\r\n\r\n" + unrulyGood), gets.unavailable("")},
			{"Content-Length beyond int64", as.says("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n" + unrulyGood), gets.unavailable("")},
			{"Content-Length twice alike", as.says("HTTP/1.1 200 OK\r\n" + unrulyLength(unrulyGood) + unrulyLength(unrulyGood) + "\r\n" + unrulyGood), gets.token(hour)},
			{"Content-Length twice", as.says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + unrulyLength(unrulyGood) + "\r\n" + unrulyGood), gets.unavailable("")},
			{"chunked", as.says(unrulyChunked + unrulyChunks(unrulyGood) + "0\r\n\r\n"), gets.token(hour)},
			{"chunked byte by byte", as.says(unrulyChunked + unrulyChunks(strings.Split(unrulyGood, "")...) + "0\r\n\r\n"), gets.token(hour)},
			{"chunked with extensions", as.says(unrulyChunked + fmt.Sprintf("%x;a=b;c=\"d\"\r\n%s\r\n0;e\r\n\r\n", len(unrulyGood), unrulyGood)), gets.token(hour)},
			{"chunked with a trailer", as.says(unrulyChunked + unrulyChunks(unrulyGood) + "0\r\nX-Node: 7\r\n\r\n"), gets.token(hour)},
			{"chunked and Content-Length", as.saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + unrulyChunks(unrulyGood) + "0\r\n\r\n"), gets.token(hour)},
			{"chunked without an end", as.saysAndCloses(unrulyChunked + unrulyChunks(unrulyGood)), gets.unavailable("")},
			{"chunked with a cut chunk", as.saysAndCloses(unrulyChunked + "fff\r\n" + unrulyGood), gets.unavailable("")},
			{"chunked with a size that is none", as.says(unrulyChunked + "many\r\n" + unrulyGood + "\r\n0\r\n\r\n"), gets.unavailable("")},
			{"chunked with a size beyond 64 bits", as.says(unrulyChunked + "fffffffffffffffff\r\n" + unrulyGood), gets.unavailable("")},
			{"chunked with a chunk too long", as.says(unrulyChunked + "5\r\n" + unrulyGood + "\r\n0\r\n\r\n"), gets.unavailable("")},
			{"Transfer-Encoding unknown", as.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n" + unrulyGood), gets.unavailable("")},
			{"lines end in LF", as.says(strings.ReplaceAll(goodHTTP, "\r\n", "\n")), gets.token(hour)},
			{"status without a reason", as.says("HTTP/1.1 200\r\n" + unrulyLength(unrulyGood) + "\r\n" + unrulyGood), gets.token(hour)},
			{"status of two digits", as.says("HTTP/1.1 20 OK\r\n\r\n"), gets.unavailable("")},
			{"status of four digits", as.says("HTTP/1.1 2000 OK\r\n\r\n"), gets.unavailable("")},
			{"status a word", as.says("HTTP/1.1 OK 200\r\n\r\n"), gets.unavailable("")},
			{"status line without spaces", as.says("HTTP/1.1200OK\r\n\r\n"), gets.unavailable("")},
			{"protocol in small letters", as.says("http/1.1 200 OK\r\n\r\n"), gets.unavailable("")},
			{"protocol unknown", as.says("ICY 200 OK\r\n\r\n"), gets.unavailable("")},
			{"HTTP/0.9", as.saysAndCloses(unrulyGood), gets.unusable()},
			{"an empty line first", as.says("\r\n" + goodHTTP), gets.unusable()},
			{"another protocol", as.says("SSH-2.0-OpenSSH_9.9\r\n"), gets.unusable()},
			{"nonsense", as.saysAndCloses("\x00\xff\x00\xff\r\n\r\n"), gets.unusable()},
			{"header line without a colon", as.says("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), gets.unavailable("")},
			{"header name with a space", as.fields("X Node: 7", unrulyGood), gets.token(hour)},
			{"header value with NUL", as.says("HTTP/1.1 200 OK\r\nX-Node: \x00\r\n" + unrulyLength(unrulyGood) + "\r\n" + unrulyGood), gets.unavailable("")},
			{"header value in other letters", as.fields("X-Node: sieben \xfc", unrulyGood), gets.token(hour)},
			{"header line folded", as.fields("X-Node: a\r\n b", unrulyGood), gets.token(hour)},
			{"header of 50 KiB", as.fields("X-Node: "+strings.Repeat("n", 50<<10), unrulyGood), gets.token(hour)},
			{"header of 100 KiB", as.fields("X-Node: "+strings.Repeat("n", 100<<10), unrulyGood), gets.unavailable("")},
			{"10,000 header lines", as.fields(strings.Repeat("X-Node: nnnn\r\n", 10_000)+"X: y", unrulyGood), gets.unavailable("")},
			{"100 Continue", as.says("HTTP/1.1 100 Continue\r\n\r\n" + goodHTTP), gets.token(hour)},
			{"103 Early Hints", as.says("HTTP/1.1 103 Early Hints\r\nLink: </s>; rel=preload\r\n\r\n" + goodHTTP), gets.token(hour)},
			{"20 early hints", as.says(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20) + goodHTTP), gets.token(hour)},
			{"101 without an upgrade", as.says("HTTP/1.1 101 Switching Protocols\r\n\r\n" + goodHTTP), gets.unusable()},
			{"101 and the end", as.saysAndCloses("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), gets.unusable()},
			{"byte by byte", as.does(func(c *unrulyConn) {
				for c.request() {
					for _, b := range []byte(goodHTTP) {
						c.send(string(b))
					}
				}
			}), gets.token(hour)},
			{"two answers", as.says(goodHTTP + goodHTTP), gets.token(hour)},
			{"the answer and nonsense behind it", as.says(goodHTTP + "nonsense"), gets.token(hour)},
			{"the answer and the end", as.saysAndCloses(goodHTTP), gets.token(hour)},
			{"Connection: close", as.saysAndCloses("HTTP/1.1 200 OK\r\nConnection: close\r\n" + unrulyLength(unrulyGood) + "\r\n" + unrulyGood), gets.token(hour)},
		}},

		{"endless", []unrulyRow{
			{"body", as.endless("HTTP/1.1 200 OK\r\n\r\n", "x"), gets.unusable()},
			{"body of white space", as.endless("HTTP/1.1 200 OK\r\n\r\n"+unrulyGood, " "), gets.unusable()},
			{"body in chunks", as.endless(unrulyChunked, "4\r\nxxxx\r\n"), gets.unusable()},
			{"body of an error", as.endless("HTTP/1.1 400 Bad Request\r\n\r\n", "x"), gets.unusable()},
			{"body of a 500", as.endless("HTTP/1.1 500 Oops\r\n\r\n", "x"), gets.unusable()},
			{"body of a redirect", as.endless("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "x"), gets.unusable()},
			{"Content-Length of a terabyte", as.endless("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", "x"), gets.unusable()},
			{"body behind 101", as.endless("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "x"), gets.unusable()},
			{"status line", as.endless("HTTP/1.1 200 ", "OK"), gets.unavailable("")},
			{"header line", as.endless("HTTP/1.1 200 OK\r\nX: ", "y"), gets.unavailable("")},
			{"header lines", as.endless("HTTP/1.1 200 OK\r\n", "X: y\r\n"), gets.unavailable("")},
			{"1xx answers", as.endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), gets.unavailable("")},
			{"chunk extension", as.endless(unrulyChunked, "1;a=b"), gets.unavailable("")},
			{"trailer", as.endless(unrulyChunked+unrulyChunks(unrulyGood)+"0\r\n", "X: y\r\n"), gets.unavailable("")},
		}},

		{"resets", []unrulyRow{
			{"nobody listens", as.absent(), gets.unavailable("").after(0)},
			{"closed at once", as.does(func(*unrulyConn) {}), gets.unavailable("").after(0)},
			{"reset at once", as.does(func(c *unrulyConn) { c.reset() }), gets.unavailable("").after(0)},
			{"closed after the request", as.does(func(c *unrulyConn) { c.request() }), gets.unavailable("")},
			{"reset after the request", as.does(func(c *unrulyConn) { c.request(); c.reset() }), gets.unavailable("")},
			{"closed in the status line", as.saysAndCloses("HTTP/1.1 2"), gets.unavailable("")},
			{"closed in the header", as.saysAndCloses("HTTP/1.1 200 OK\r\nContent-"), gets.unavailable("")},
			{"reset in the header", as.saysAndResets("HTTP/1.1 200 OK\r\nContent-"), gets.unavailable("")},
			{"closed after a 1xx answer", as.saysAndCloses("HTTP/1.1 100 Continue\r\n\r\n"), gets.unavailable("")},
			{"closed in the body", as.saysAndCloses(goodHTTP[:len(goodHTTP)-1]), gets.unavailable("")},
			{"reset in the body", as.saysAndResets(goodHTTP[:len(goodHTTP)-1]), gets.unavailable("")},
			{"reset in a body without a length", as.saysAndResets("HTTP/1.1 200 OK\r\n\r\n{"), gets.unavailable("")},
			{"closed in the body of an error", as.saysAndCloses("HTTP/1.1 401 Unauthorized\r\nContent-Length: 99\r\n\r\n{"), gets.unavailable("")},
			{"half-closed after the request", as.does(func(c *unrulyConn) { c.request(); c.halfClose(); c.hold() }), gets.unavailable("")},
			{"half-closed after the answer", as.does(func(c *unrulyConn) { c.request(); c.send(goodHTTP); c.halfClose(); c.hold() }), gets.token(hour)},
			{"each connection closed but the third", as.does(func(c *unrulyConn) {
				if c.request() && c.number >= 3 {
					c.send(goodHTTP)
				}
			}), gets.unavailable("")},
		}},

		{"stalls", []unrulyRow{
			{"in the connection, with a full backlog", as.fullBacklog(), gets.unavailable("").after(0).in(stall)},
			{"in the connection, behind a proxy", as.silentProxy(), gets.unavailable("").after(0).in(stall)},
			{"accepted by nobody", as.unaccepted("http"), gets.unavailable("").after(0).in(stall)},
			{"accepted by nobody, with TLS", as.unaccepted("https"), gets.unavailable("").after(0).in(stall)},
			{"in the TLS handshake", as.belowTLS(func(c *unrulyConn) { c.hold() }), gets.unavailable("").after(0).in(stall)},
			{"in a TLS record", as.belowTLS(func(c *unrulyConn) { c.send("\x16\x03\x03\x40\x00\x02"); c.hold() }), gets.unavailable("").after(0).in(stall)},
			{"in the request", as.does(func(c *unrulyConn) { c.hold() }), gets.unavailable("").after(0).in(stall)},
			{"before the answer", as.stalls(""), gets.unavailable("").in(stall)},
			{"in the status line", as.stalls("HTTP/1.1 20"), gets.unavailable("").in(stall)},
			{"in the header", as.stalls("HTTP/1.1 200 OK\r\nContent-Type: app"), gets.unavailable("").in(stall)},
			{"after a 1xx answer", as.stalls("HTTP/1.1 103 Early Hints\r\n\r\n"), gets.unavailable("").in(stall)},
			{"after 101", as.stalls("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), gets.unusable()},
			{"before the body", as.stalls("HTTP/1.1 200 OK\r\n" + unrulyLength(unrulyGood) + "\r\n"), gets.unavailable("").in(stall)},
			{"in the body", as.stalls(goodHTTP[:len(goodHTTP)-1]), gets.unavailable("").in(stall)},
			{"behind a body without a length", as.stalls("HTTP/1.1 200 OK\r\n\r\n" + unrulyGood), gets.unavailable("").in(stall)},
			{"in a chunk", as.stalls(unrulyChunked + "fff\r\n{"), gets.unavailable("").in(stall)},
			{"before the last chunk", as.stalls(unrulyChunked + unrulyChunks(unrulyGood)), gets.unavailable("").in(stall)},
			{"in a gzip stream", as.stalls("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + unrulyGzip(unrulyGood)[:20]), gets.unavailable("").in(stall)},
			{"in the body of an error", as.stalls("HTTP/1.1 401 Unauthorized\r\nContent-Length: 99\r\n\r\n{"), gets.unavailable("").in(stall)},
			{"a header that drips", as.drips("HTTP/1.1 200 OK\r\n", "X: y\r\n"), gets.unavailable("").in(stall)},
			{"a body that drips", as.drips("HTTP/1.1 200 OK\r\n\r\n", " "), gets.unavailable("").in(stall)},
			{"chunks that drip", as.drips(unrulyChunked, "1\r\n \r\n"), gets.unavailable("").in(stall)},
			{"1xx answers that drip", as.drips("", "HTTP/1.1 103 Early Hints\r\n\r\n"), gets.unavailable("").in(stall)},
		}},

		{"Retry-After", []unrulyRow{
			{"503 without", as.status(503, ""), gets.unavailable("")},
			{"503 and seconds", as.failing(503, "Retry-After: 7"), gets.unavailable("").waiting(7 * second)},
			{"429 and seconds", as.failing(429, "Retry-After: 7"), gets.unavailable("").waiting(7 * second)},
			{"500 and seconds", as.failing(500, "Retry-After: 7"), gets.unavailable("").waiting(7 * second)},
			{"400 and seconds", as.failing(400, "Retry-After: 7"), gets.unusable().waiting(7 * second)},
			{"seconds in small letters", as.failing(503, "retry-after:7"), gets.unavailable("").waiting(7 * second)},
			{"0 seconds", as.failing(503, "Retry-After: 0"), gets.unavailable("")},
			{"seconds below zero", as.failing(503, "Retry-After: -7"), gets.unavailable("")},
			{"as many as are obeyed", as.failing(503, "Retry-After: 600"), gets.unavailable("").waiting(600 * second)},
			{"a day", as.failing(503, "Retry-After: 86400"), gets.unavailable("").waiting(600 * second)},
			{"beyond int64", as.failing(503, "Retry-After: 99999999999999999999"), gets.unavailable("")},
			{"date far off", as.failing(503, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"), gets.unavailable("").waiting(600 * second)},
			{"date gone by", as.failing(503, "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"), gets.unavailable("")},
			{"date of ISO 8601", as.failing(503, "Retry-After: 9999-12-31T23:59:59Z"), gets.unavailable("")},
			{"a word", as.failing(503, "Retry-After: later"), gets.unavailable("")},
			{"a float", as.failing(503, "Retry-After: 7.5"), gets.unavailable("")},
			{"empty", as.failing(503, "Retry-After:"), gets.unavailable("")},
			{"twice", as.failing(503, "Retry-After: 7\r\nRetry-After: 70"), gets.unavailable("").waiting(7 * second)},
			{"RateLimit-Reset", as.failing(429, "RateLimit-Reset: 7"), gets.unavailable("").waiting(7 * second)},
			{"X-RateLimit-Reset since 1970", as.failing(429, "X-RateLimit-Reset: 9999999999"), gets.unavailable("").waiting(600 * second)},
			{"X-Rate-Limit-Reset gone by", as.failing(429, "X-Rate-Limit-Reset: 946684800"), gets.unavailable("")},
			{"RateLimit-Reset a word", as.failing(429, "RateLimit-Reset: soon"), gets.unavailable("")},
			{"RateLimit-Reset with 500", as.failing(500, "RateLimit-Reset: 7"), gets.unavailable("")},
			{"with a token", as.fields("Retry-After: 7", unrulyGood), gets.token(hour)},
		}},

		{"error", []unrulyRow{
			{"false beside a token", as.members(`"expires_in":3600,"error":false`), gets.token(hour)},
			{"0 beside a token", as.members(`"expires_in":3600,"error":0`), gets.token(hour)},
			{"null beside a token", as.members(`"expires_in":3600,"error":null`), gets.token(hour)},
			{"empty beside a token", as.members(`"expires_in":3600,"error":""`), gets.token(hour)},
			{"empty object beside a token", as.members(`"expires_in":3600,"error":{}`), gets.token(hour)},
			{"empty list beside a token", as.members(`"expires_in":3600,"error":[]`), gets.token(hour)},
			{"description alone beside a token", as.members(`"expires_in":3600,"error_description":"fine"`), gets.token(hour)},
			{"beside a token", as.members(`"error":"invalid_scope"`), gets.refused("invalid_scope")},
			{"true beside a token", as.members(`"error":true`), gets.refused("")},
			{"1 beside a token", as.members(`"error":1`), gets.refused("")},
			{"object beside a token", as.members(`"error":{"code":"invalid_scope"}`), gets.refused("invalid_scope")},
			{"list beside a token", as.members(`"error":["invalid_scope"]`), gets.refused("")},
			{"with 200", as.json(`{"error":"invalid_client"}`), gets.refused("invalid_client")},
			{"with 200 as a form", as.json(`error=invalid_client&error_description=no`), gets.refused("invalid_client")},
			{"beside a token in a form", as.json(unrulyForm + "&error=invalid_client"), gets.refused("invalid_client")},
			{"of Slack", as.json(`{"ok":false,"error":"invalid_auth"}`), gets.refused("invalid_auth")},
			{"object of Google", as.status(401, `{"error":{"code":401,"message":"no","status":"UNAUTHENTICATED"}}`), gets.refused("UNAUTHENTICATED")},
			{"object of Facebook", as.status(400, `{"error":{"message":"no","type":"OAuthException","code":190}}`), gets.refused("OAuthException")},
			{"object without a code", as.status(400, `{"error":{"reason":"no"}}`), gets.refused("")},
			{"sentence", as.status(400, `{"error":"The client is unknown."}`), gets.refused("")},
			{"with CR LF", as.status(400, `{"error":"invalid_client\r\nX-Evil: 1"}`), gets.refused("")},
			{"in other letters", as.status(400, `{"error":"ungültig"}`), gets.refused("")},
			{"without end", as.status(400, `{"error":"`+strings.Repeat("e", 5000)+`"}`), gets.refused("")},
			{"in capitals", as.json(`{"ERROR":"invalid_client"}`), gets.unusable()},
			{"temporarily_unavailable", as.status(400, `{"error":"temporarily_unavailable"}`), gets.unavailable("temporarily_unavailable")},
			{"server_error", as.status(400, `{"error":"server_error"}`), gets.unavailable("server_error")},
			{"slow_down", as.status(400, `{"error":"slow_down"}`), gets.unavailable("slow_down")},
		}},

		{"expires_in", []unrulyRow{
			{"number", as.members(`"expires_in":3600`), gets.token(hour)},
			{"string", as.members(`"expires_in":"3600"`), gets.token(hour)},
			{"string in spaces", as.members(`"expires_in":" 3600 "`), gets.token(hour)},
			{"float", as.members(`"expires_in":5400.5`), gets.token(5400*second + second/2)},
			{"float in a string", as.members(`"expires_in":"5400.5"`), gets.token(5400*second + second/2)},
			{"exponent", as.members(`"expires_in":7.2e3`), gets.token(2 * hour)},
			{"in a form", as.json("access_token=" + unrulyToken + "&expires_in=7200"), gets.token(2 * hour)},
			{"empty in a form", as.json("access_token=" + unrulyToken + "&expires_in="), gets.token(unrulyDefault)},
			{"missing", as.members(`"scope":"x"`), gets.token(unrulyDefault)},
			{"null", as.members(`"expires_in":null`), gets.token(unrulyDefault)},
			{"empty", as.members(`"expires_in":""`), gets.token(unrulyDefault)},
			{"zero", as.members(`"expires_in":0`), gets.token(unrulyDefault)},
			{"zero in a string", as.members(`"expires_in":"0"`), gets.token(unrulyDefault)},
			{"negative", as.members(`"expires_in":-3600`), gets.token(unrulyDefault)},
			{"negative in a string", as.members(`"expires_in":"-1"`), gets.token(unrulyDefault)},
			{"far below zero", as.members(`"expires_in":-1e999`), gets.token(unrulyDefault)},
			{"word", as.members(`"expires_in":"soon"`), gets.token(unrulyDefault)},
			{"with a unit", as.members(`"expires_in":"1h"`), gets.token(unrulyDefault)},
			{"date", as.members(`"expires_in":"2099-01-01T00:00:00Z"`), gets.token(unrulyDefault)},
			{"NaN", as.members(`"expires_in":"NaN"`), gets.token(unrulyDefault)},
			{"true", as.members(`"expires_in":true`), gets.token(unrulyDefault)},
			{"list", as.members(`"expires_in":[3600]`), gets.token(unrulyDefault)},
			{"object", as.members(`"expires_in":{"seconds":3600}`), gets.token(unrulyDefault)},
			{"another case", as.members(`"Expires_In":3600`), gets.token(unrulyDefault)},
			{"that of the refresh token", as.members(`"refresh_expires_in":0`), gets.token(unrulyDefault)},
			{"ten years", as.members(`"expires_in":315360000`), gets.token(year)},
			{"milliseconds since 1970", as.members(`"expires_in":1893456000000`), gets.token(year)},
			{"beyond int64", as.members(`"expires_in":99999999999999999999`), gets.token(year)},
			{"beyond float64", as.members(`"expires_in":1e999`), gets.token(year)},
			{"a second", as.members(`"expires_in":1`), gets.token(second)},
			{"under a second", as.members(`"expires_in":0.001`), gets.token(second)},
			{"next to nothing", as.members(`"expires_in":1e-300`), gets.token(second)},
		}},

		{"token_type", []unrulyRow{
			{"absent", as.json(`{"access_token":"` + unrulyToken + `"}`), gets.token(unrulyDefault)},
			{"null", as.json(`{"access_token":"` + unrulyToken + `","token_type":null}`), gets.token(unrulyDefault)},
			{"empty", as.json(`{"access_token":"` + unrulyToken + `","token_type":""}`), gets.token(unrulyDefault)},
			{"bearer", as.json(`{"access_token":"` + unrulyToken + `","token_type":"bearer"}`), gets.token(unrulyDefault)},
			{"BEARER", as.json(`{"access_token":"` + unrulyToken + `","token_type":"BEARER"}`), gets.token(unrulyDefault)},
			{"BearerToken", as.json(`{"access_token":"` + unrulyToken + `","token_type":"BearerToken"}`), gets.token(unrulyDefault)},
			{"another case", as.json(`{"access_token":"` + unrulyToken + `","Token_Type":"mac"}`), gets.token(unrulyDefault)},
			{"mac", as.json(`{"access_token":"` + unrulyToken + `","token_type":"mac"}`), gets.unusable()},
			{"N_A", as.json(`{"access_token":"` + unrulyToken + `","token_type":"N_A"}`), gets.unusable()},
			{"DPoP", as.json(`{"access_token":"` + unrulyToken + `","token_type":"DPoP"}`), gets.unusable()},
			{"bot", as.json(`{"access_token":"` + unrulyToken + `","token_type":"bot"}`), gets.unusable()},
			{"bearer with a space", as.json(`{"access_token":"` + unrulyToken + `","token_type":"bearer "}`), gets.unusable()},
			{"bearer with CR LF", as.json(`{"access_token":"` + unrulyToken + `","token_type":"bearer\r\nX-Evil: 1"}`), gets.unusable()},
			{"bearer in other letters", as.json(`{"access_token":"` + unrulyToken + `","token_type":"bеarer"}`), gets.unusable()},
			{"number", as.json(`{"access_token":"` + unrulyToken + `","token_type":1}`), gets.unusable()},
			{"list", as.json(`{"access_token":"` + unrulyToken + `","token_type":["bearer"]}`), gets.unusable()},
			{"object", as.json(`{"access_token":"` + unrulyToken + `","token_type":{}}`), gets.unusable()},
			{"without end", as.json(`{"access_token":"` + unrulyToken + `","token_type":"` + strings.Repeat("t", 5000) + `"}`), gets.unusable()},
			{"mac, with a scheme of ours", as.json(`{"access_token":"` + unrulyToken + `","token_type":"mac"}`).with("inject header Authorization Bearer"), gets.token(unrulyDefault)},
		}},

		{"access_token", []unrulyRow{
			{"of Salesforce", as.json(`{"access_token":"00D!AQ.x_y~z"}`), gets.token(unrulyDefault).called("00D!AQ.x_y~z")},
			{"with every sign", as.json(`{"access_token":"!#$%&'()*+,-./:;<=>?@[\\]^_{|}~"}`), gets.token(unrulyDefault).called(`!#$%&'()*+,-./:;<=>?@[\]^_{|}~`)},
			{"with escapes", as.json(`{"access_token":"\u0061\/b"}`), gets.token(unrulyDefault).called("a/b")},
			{"encoded in a form", as.json("access_token=a%2Bb%3D"), gets.token(unrulyDefault).called("a+b=")},
			{"of 100,000 characters", as.json(`{"access_token":"` + strings.Repeat("jwt.", 25_000) + `"}`), gets.token(unrulyDefault).called(strings.Repeat("jwt.", 25_000))},
			{"absent", as.json(`{"token_type":"bearer"}`), gets.unusable()},
			{"empty", as.json(`{"access_token":""}`), gets.unusable()},
			{"null", as.json(`{"access_token":null}`), gets.unusable()},
			{"number", as.json(`{"access_token":42}`), gets.unusable()},
			{"true", as.json(`{"access_token":true}`), gets.unusable()},
			{"list", as.json(`{"access_token":["` + unrulyToken + `"]}`), gets.unusable()},
			{"object", as.json(`{"access_token":{"value":"` + unrulyToken + `"}}`), gets.unusable()},
			{"with CR LF", as.json(`{"access_token":"` + unrulyToken + `\r\nX-Evil: 1"}`), gets.unusable()},
			{"with LF", as.json(`{"access_token":"` + unrulyToken + `\n"}`), gets.unusable()},
			{"with a space", as.json(`{"access_token":"` + unrulyToken + ` "}`), gets.unusable()},
			{"with a tab", as.json(`{"access_token":"` + unrulyToken + `\t"}`), gets.unusable()},
			{"with NUL", as.json(`{"access_token":"` + unrulyToken + `\u0000"}`), gets.unusable()},
			{"with DEL", as.json(`{"access_token":"` + unrulyToken + `\u007f"}`), gets.unusable()},
			{"in other letters", as.json(`{"access_token":"schlüssel"}`), gets.unusable()},
			{"that is not UTF-8", as.json("{\"access_token\":\"" + unrulyToken + "\xff\"}"), gets.unusable()},
			{"with CR LF in a form", as.json("access_token=" + unrulyToken + "%0D%0AX-Evil:1"), gets.unusable()},
		}},

		{"members", []unrulyRow{
			{"access_token twice", as.json(`{"access_token":"` + unrulyToken + `","access_token":"evil"}`), gets.unusable()},
			{"access_token twice alike", as.json(`{"access_token":"` + unrulyToken + `","access_token":"` + unrulyToken + `"}`), gets.token(unrulyDefault)},
			{"access_token twice in a form", as.json("access_token=" + unrulyToken + "&access_token=evil"), gets.unusable()},
			{"access_token and null", as.json(`{"access_token":"` + unrulyToken + `","access_token":null}`), gets.unusable()},
			{"token_type twice", as.members(`"token_type":"mac"`), gets.unusable()},
			{"expires_in twice", as.members(`"expires_in":60,"expires_in":3600`), gets.unusable()},
			{"expires_in twice alike", as.members(`"expires_in":3600,"expires_in":3600`), gets.token(hour)},
			{"error twice", as.members(`"error":false,"error":"invalid_client"`), gets.unusable()},
			{"scope twice", as.members(`"expires_in":3600,"scope":"a","scope":"b"`), gets.token(hour)},
			{"ACCESS_TOKEN behind access_token", as.members(`"expires_in":3600,"ACCESS_TOKEN":"evil"`), gets.token(hour)},
			{"Access_Token before access_token", as.json(`{"Access_Token":"evil",` + unrulyGood[1:]), gets.token(hour)},
			{"ACCESS_TOKEN alone", as.json(`{"ACCESS_TOKEN":"evil"}`), gets.unusable()},
			{"Access_token alone in a form", as.json("Access_token=evil&token_type=bearer"), gets.unusable()},
			{"Error beside a token", as.members(`"expires_in":3600,"Error":"invalid_client"`), gets.token(hour)},
			{"accessToken", as.json(`{"accessToken":"evil"}`), gets.unusable()},
			{"id_token alone", as.json(`{"id_token":"evil"}`), gets.unusable()},
			{"every type", as.members(`"expires_in":3600,"a":[1,{"b":null}],"c":-1.5e300,"d":true,"scope":["x"]`), gets.token(hour)},
			// RFC 6749 section 4.4.3: with client_credentials there should be none.
			{"refresh_token", as.members(`"expires_in":3600,"refresh_token":"r"`), gets.token(hour)},
			{"refresh_token empty", as.members(`"expires_in":3600,"refresh_token":""`), gets.token(hour)},
			{"refresh_token null", as.members(`"expires_in":3600,"refresh_token":null`), gets.token(hour)},
			{"refresh_token a number", as.members(`"expires_in":3600,"refresh_token":42`), gets.token(hour)},
			{"refresh_token an object", as.members(`"expires_in":3600,"refresh_token":{}`), gets.token(hour)},
			{"refresh_token with CR LF, which is of no use here", as.members(`"expires_in":3600,"refresh_token":"r\r\n"`), gets.token(hour)},
		}},

		{"echoes", []unrulyRow{
			{"secret in error_description", as.status(401, `{"error":"invalid_client","error_description":"bad secret `+unrulySecret+`"}`), gets.refused("invalid_client")},
			{"secret in error", as.status(401, `{"error":"`+unrulySecret+`"}`), gets.refused("")},
			{"secret in an error object", as.status(401, `{"error":{"secret":"`+unrulySecret+`"}}`), gets.refused("")},
			{"secret as a web page", as.status(500, "<html>"+unrulySecret), gets.unavailable("")},
			{"secret in Content-Type", as.fields("Content-Type: application/"+unrulySecret, "nonsense"), gets.unusable()},
			{"secret in Location", as.redirects(302, "/"+unrulySecret), gets.unusable()},
			{"secret as status line", as.says(unrulySecret + "\r\n\r\n"), gets.unusable()},
			{"secret as reason", as.says("HTTP/1.1 500 " + unrulySecret + "\r\nContent-Length: 0\r\n\r\n"), gets.unavailable("")},
			{"secret in a header line", as.says("HTTP/1.1 200 OK\r\n" + unrulySecret + "\r\n\r\n"), gets.unavailable("")},
			{"secret in Content-Length", as.says("HTTP/1.1 200 OK\r\nContent-Length: " + unrulySecret + "\r\n\r\n"), gets.unavailable("")},
			{"secret in Transfer-Encoding", as.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + unrulySecret + "\r\n\r\n"), gets.unavailable("")},
			{"secret in token_type", as.json(`{"access_token":"a","token_type":"` + unrulySecret + `"}`), gets.unusable()},
			{"token in token_type", as.json(`{"access_token":"` + unrulyToken + `","token_type":"` + unrulyToken + `"}`), gets.unusable()},
			{"token in error_description", as.members(`"error":"invalid_scope","error_description":"not for ` + unrulyToken + `"`), gets.refused("invalid_scope")},
			{"token in an error object", as.members(`"error":{"was":"` + unrulyToken + `"}`), gets.refused("")},
			{"Basic pair in error_description", as.status(401, `{"error":"invalid_client","error_description":"Basic `+unrulyPair+`"}`), gets.refused("invalid_client")},
		}},

		{"TLS", []unrulyRow{
			{"good", as.tls("good", answers(goodHTTP)), gets.token(hour)},
			{"good, by the name localhost", as.tls("good", answers(goodHTTP)).at("https://localhost:PORT/token"), gets.token(hour)},
			{"good, with an intermediate", as.tls("chained", answers(goodHTTP)), gets.token(hour)},
			{"good, with TLS 1.2", as.tls("good", answers(goodHTTP)).tlsVersion(tls.VersionTLS12), gets.token(hour)},
			{"HTTP/1.1 agreed on", as.tls("good", answers(goodHTTP)).alpn("http/1.1"), gets.token(hour)},
			{"expired", as.tls("expired", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"not yet valid", as.tls("early", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"wrong host", as.tls("elsewhere", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"wrong host, right by another name", as.tls("named", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"host in the common name alone", as.tls("common name", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"unknown CA", as.tls("stranger", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"unknown CA to the system", as.tls("good", answers(goodHTTP)).trusting(""), gets.unavailable("").after(0)},
			{"self-signed", as.tls("self-signed", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"intermediate left out", as.tls("unchained", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"certificate for clients", as.tls("client", answers(goodHTTP)), gets.unavailable("").after(0)},
			{"TLS 1.1", as.tls("good", answers(goodHTTP)).tlsVersion(tls.VersionTLS11), gets.unavailable("").after(0)},
			{"client certificate demanded", as.tls("good", answers(goodHTTP)).demandingCertificate(), gets.unavailable("").after(0)},
			{"plain HTTP on the TLS port", as.belowTLS(func(c *unrulyConn) { c.send("HTTP/1.1 400 Bad Request\r\n\r\n"); c.hold() }), gets.unavailable("").after(0)},
			{"TLS on the plain port", as.tls("good", answers(goodHTTP)).at("http://127.0.0.1:PORT/token"), gets.unavailable("").after(0)},
			{"nonsense for ServerHello", as.belowTLS(func(c *unrulyConn) { c.send(strings.Repeat("\x16\x03\x03\x00\x04\x02\x00\x00\x00", 9)); c.hold() }), gets.unavailable("").after(0)},
			{"alert", as.belowTLS(func(c *unrulyConn) { c.send("\x15\x03\x03\x00\x02\x02\x28"); c.hold() }), gets.unavailable("").after(0)},
			{"closed in the handshake", as.belowTLS(func(c *unrulyConn) { c.read(1) }), gets.unavailable("").after(0)},
			{"reset in the handshake", as.belowTLS(func(c *unrulyConn) { c.read(1); c.reset() }), gets.unavailable("").after(0)},
			{"reset in the body", as.tls("good", func(c *unrulyConn) { c.request(); c.send(goodHTTP[:len(goodHTTP)-1]); c.reset() }), gets.unavailable("")},
			{"cut without a goodbye", as.tls("good", func(c *unrulyConn) {
				c.request()
				c.send("HTTP/1.1 200 OK\r\n\r\n" + unrulyGood[:30])
				_ = c.tcp.Close()
			}), gets.unusable()},
			{"HTTP/1.1 where HTTP/2 was agreed on", as.tls("good", func(c *unrulyConn) { c.send(goodHTTP); c.hold() }).alpn("h2"), gets.unavailable("").after(0)},
		}},

		{"HTTP2", []unrulyRow{
			{"good", as.h2(func(c *unrulyH2) { c.answerAll() }), gets.token(hour)},
			{"401 with a code", as.h2(func(c *unrulyH2) { c.answer(c.next(), "401", `{"error":"invalid_client"}`) }), gets.refused("invalid_client")},
			{"503", as.h2(func(c *unrulyH2) { c.answer(c.next(), "503", "") }), gets.unavailable("")},
			{"redirect to another host", as.h2(func(c *unrulyH2) { c.header(c.next(), true, ":status", "307", "location", "http://OTHER/") }), gets.unusable()},
			{"gzip", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200", "content-encoding", "gzip")
				c.data(stream, true, unrulyGzip(unrulyGood))
			}), gets.token(hour)},
			{"header in three frames", as.h2(func(c *unrulyH2) {
				stream, block := c.next(), c.block(":status", "200", "x-node", "7")
				c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:1]}))
				c.check(c.WriteContinuation(stream, false, block[1:2]))
				c.check(c.WriteContinuation(stream, true, block[2:]))
				c.data(stream, true, unrulyGood)
			}), gets.token(hour)},
			{"data byte by byte", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				for _, b := range []byte(unrulyGood) {
					c.data(stream, false, string(b))
				}
				c.data(stream, true, "")
			}), gets.token(hour)},
			{"padded data", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.check(c.WriteDataPadded(stream, true, []byte(unrulyGood), make([]byte, 255)))
			}), gets.token(hour)},
			{"1,000 empty data frames", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				for range 1000 {
					c.data(stream, false, "")
				}
				c.data(stream, true, unrulyGood)
			}), gets.token(hour)},
			{"early hints", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "103", "link", "</s>; rel=preload")
				c.answer(stream, "200", unrulyGood)
			}), gets.token(hour)},
			{"trailer", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, unrulyGood)
				c.header(stream, true, "x-node", "7")
			}), gets.token(hour)},
			{"unknown frames", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.check(c.WriteRawFrame(0xfa, 0xff, 0, []byte("?")))
				c.check(c.WriteRawFrame(0xfa, 0xff, stream, []byte("?")))
				c.answer(stream, "200", unrulyGood)
			}), gets.token(hour)},
			{"500 pings", as.h2(func(c *unrulyH2) {
				stream := c.next()
				for range 500 {
					c.check(c.WritePing(false, [8]byte{}))
				}
				c.answer(stream, "200", unrulyGood)
			}), gets.token(hour)},
			{"settings changed in between", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.check(c.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0}))
				c.answer(stream, "200", unrulyGood)
			}), gets.token(hour)},

			// A GOAWAY says which streams were not seen: only those, and refused
			// ones, are safe to send again. net/http does so by itself; once is
			// enough.
			{"GOAWAY that saw nothing", as.h2(func(c *unrulyH2) {
				if c.number > 1 {
					c.answerAll()
					return
				}
				c.next()
				c.check(c.WriteGoAway(0, http2.ErrCodeNo, nil))
			}), gets.token(hour).after(2)},
			{"GOAWAY that saw nothing, each time", as.h2(func(c *unrulyH2) {
				c.next()
				c.check(c.WriteGoAway(0, http2.ErrCodeNo, nil))
			}), gets.unavailable("").after(2)},
			{"GOAWAY that saw the request, and an answer", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.check(c.WriteGoAway(stream, http2.ErrCodeNo, nil))
				c.answer(stream, "200", unrulyGood)
			}), gets.token(hour)},
			{"GOAWAY that saw the request, and the end", as.h2(func(c *unrulyH2) {
				c.check(c.WriteGoAway(c.next(), http2.ErrCodeNo, nil))
				c.Close()
			}), gets.unavailable("")},
			{"GOAWAY with ENHANCE_YOUR_CALM", as.h2(func(c *unrulyH2) {
				c.next()
				c.check(c.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
			}), gets.unavailable("")},
			{"GOAWAY that repeats the secret", as.h2(func(c *unrulyH2) {
				c.check(c.WriteGoAway(c.next(), http2.ErrCodeInternal, []byte(unrulySecret)))
				c.Close()
			}), gets.unavailable("")},
			{"REFUSED_STREAM, then an answer", as.h2(func(c *unrulyH2) {
				if c.number == 1 {
					c.check(c.WriteRSTStream(c.next(), http2.ErrCodeRefusedStream))
				}
				c.answerAll()
			}), gets.token(hour).after(2)},
			{"REFUSED_STREAM each time", as.h2(func(c *unrulyH2) {
				for stream := c.next(); stream != 0; stream = c.next() {
					c.check(c.WriteRSTStream(stream, http2.ErrCodeRefusedStream))
				}
			}), gets.unavailable("").after(2)},
			{"RST_STREAM with INTERNAL_ERROR", as.h2(func(c *unrulyH2) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeInternal)) }), gets.unavailable("")},
			{"RST_STREAM with PROTOCOL_ERROR", as.h2(func(c *unrulyH2) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeProtocol)) }), gets.unavailable("")},
			{"RST_STREAM with CANCEL", as.h2(func(c *unrulyH2) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeCancel)) }), gets.unavailable("")},
			{"RST_STREAM with HTTP_1_1_REQUIRED", as.h2(func(c *unrulyH2) { c.check(c.WriteRSTStream(c.next(), http2.ErrCodeHTTP11Required)) }), gets.unavailable("")},
			{"RST_STREAM after the header", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.check(c.WriteRSTStream(stream, http2.ErrCodeInternal))
			}), gets.unavailable("")},
			{"RST_STREAM in the data", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, unrulyGood)
				c.check(c.WriteRSTStream(stream, http2.ErrCodeInternal))
			}), gets.unavailable("")},
			{"closed after the request", as.h2(func(c *unrulyH2) { c.next(); c.Close() }), gets.unavailable("")},
			{"reset after the request", as.h2(func(c *unrulyH2) { c.next(); c.reset() }), gets.unavailable("")},
			{"closed in the data", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, unrulyGood)
				c.Close()
			}), gets.unavailable("")},
			{"data before the header", as.h2(func(c *unrulyH2) { c.data(c.next(), true, unrulyGood) }), gets.unavailable("")},
			{"header without a status", as.h2(func(c *unrulyH2) { c.header(c.next(), true, "x-node", "7") }), gets.unavailable("")},
			{"header with a status that is none", as.h2(func(c *unrulyH2) { c.header(c.next(), true, ":status", "fine") }), gets.unavailable("")},
			{"header that is no HPACK", as.h2(func(c *unrulyH2) {
				c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: []byte("\xff\xff\xff\xff\xff\xff\xff\xff"), EndHeaders: true}))
			}), gets.unavailable("")},
			{"content-length too large", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200", "content-length", "4096")
				c.data(stream, true, unrulyGood)
			}), gets.unavailable("")},
			{"content-length too small", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200", "content-length", "5")
				c.data(stream, true, unrulyGood)
			}), gets.unavailable("")},
			{"push", as.h2(func(c *unrulyH2) {
				c.check(c.WritePushPromise(http2.PushPromiseParam{StreamID: c.next(), PromiseID: 2, BlockFragment: c.block(":method", "GET"), EndHeaders: true}))
			}), gets.unavailable("")},
			{"window beyond its bounds", as.h2(func(c *unrulyH2) {
				c.next()
				c.check(c.WriteWindowUpdate(0, 1<<31-1))
				c.check(c.WriteWindowUpdate(0, 1<<31-1))
			}), gets.unavailable("")},
			{"frame beyond its bounds", as.h2(func(c *unrulyH2) { c.next(); c.send("\xff\xff\xff\x00\x00\x00\x00\x00\x01") }), gets.unavailable("")},
			{"settings that are none", as.h2(func(c *unrulyH2) {
				c.next()
				c.check(c.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}))
			}), gets.unavailable("")},
			{"2 MiB of data", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				for range 128 {
					c.data(stream, false, strings.Repeat(" ", 16<<10))
				}
			}), gets.unusable()},
		}},

		{"HTTP2 stalls", []unrulyRow{
			{"without settings", as.h2(nil), gets.unavailable("").after(0).in(stall)},
			{"before the answer", as.h2(func(c *unrulyH2) { c.next() }), gets.unavailable("").in(stall)},
			{"before the data", as.h2(func(c *unrulyH2) { c.header(c.next(), false, ":status", "200") }), gets.unavailable("").in(stall)},
			{"in the data", as.h2(func(c *unrulyH2) {
				stream := c.next()
				c.header(stream, false, ":status", "200")
				c.data(stream, false, unrulyGood)
			}), gets.unavailable("").in(stall)},
			{"in the header", as.h2(func(c *unrulyH2) {
				c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: c.block(":status", "200")}))
			}), gets.unavailable("").in(stall)},
			{"with a header for another stream", as.h2(func(c *unrulyH2) { c.header(c.next()+1000, true, ":status", "200") }), gets.unavailable("").in(stall)},
		}},

		{"DNS", []unrulyRow{
			{"good", as.dns(unrulyAddress), gets.token(hour)},
			{"no such name", as.dns(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }), gets.unavailable("").after(0)},
			{"server failure", as.dns(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }), gets.unavailable("").after(0)},
			{"refused", as.dns(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused }), gets.unavailable("").after(0)},
			{"no address", as.dns(func(*dnsmessage.Message) {}), gets.unavailable("").after(0)},
			{"cut short", as.dns(func(m *dnsmessage.Message) { m.Truncated = true }), gets.unavailable("").after(0)},
			{"an answer to something else", as.dns(func(m *dnsmessage.Message) { unrulyAddress(m); m.ID++ }), gets.unavailable("").after(0).in(stall)},
			{"nobody answers", as.dns(nil), gets.unavailable("").after(0).in(stall)},
			{"a name under .invalid, by the system's resolver", as.absent().at("https://auth.invalid/token"), gets.unavailable("").after(0).in(stall)},
		}},
	}
}

// A renewal that goes wrong is no caller's concern while the token in hand has
// life left. Each row's first token lives ten seconds and is renewed within
// one; the row is about the requests after the first.
func TestUnrulyRenewals(t *testing.T) {
	const (
		first   = `{"access_token":"` + unrulyToken + `","expires_in":10}`
		renewed = `{"access_token":"renewed","expires_in":3600}`
	)
	ok := func(body string) string { return "HTTP/1.1 200 OK\r\n" + unrulyLength(body) + "\r\n" + body }
	// then answers all but the first request, n counting from 2; when it
	// returns, the connection is closed.
	renews := func(then func(c *unrulyConn, n int)) unrulyServer {
		return as.does(func(c *unrulyConn) {
			for c.request() {
				if n, _ := c.endpoint.count(); n > 1 {
					then(c, n)
					return
				}
				c.send(ok(first))
			}
		}).with("refresh_ahead 90%")
	}
	renewsH2 := func(then func(c *unrulyH2, stream uint32, n int)) unrulyServer {
		return as.h2(func(c *unrulyH2) {
			for stream := c.next(); stream != 0; stream = c.next() {
				if n, _ := c.endpoint.count(); n > 1 {
					then(c, stream, n)
				} else {
					c.answer(stream, "200", first)
				}
			}
		}).with("refresh_ahead 90%")
	}
	says := func(answer string) unrulyServer {
		return renews(func(c *unrulyConn, _ int) { c.send(answer) })
	}
	renewal, served := gets.token(time.Hour).called("renewed"), gets.token(10*time.Second)

	rows := []unrulyRow{
		{"good", says(ok(renewed)), renewal.after(2)},
		{"connection closed", renews(func(*unrulyConn, int) {}), served.after(2)},
		{"connection reset", renews(func(c *unrulyConn, _ int) { c.reset() }), served.after(2)},
		{"closed in the answer", says("HTTP/1.1 200 OK\r\nContent-Le"), served.after(2)},
		{"500", says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), served.after(2)},
		{"nonsense", says("nonsense\r\n\r\n"), served.after(2)},
		{"no token", says(ok("{}")), served.after(2)},
		{"token of another type", says(ok(`{"access_token":"renewed","token_type":"mac"}`)), served.after(2)},
		{"invalid_client", says(ok(`{"error":"invalid_client"}`)), served.after(2)},
		{"stall", renews(func(c *unrulyConn, _ int) { c.hold() }), served.after(2).in(unrulyStall)},
		{"token in hand in error_description", says(ok(`{"error":"invalid_client","error_description":"you have ` + unrulyToken + `"}`)), served.after(2)},
		{"token in hand as status line", says(unrulyToken + "\r\n\r\n"), served.after(2)},

		{"HTTP/2, good", renewsH2(func(c *unrulyH2, stream uint32, _ int) { c.answer(stream, "200", renewed) }), renewal.after(2)},
		{"HTTP/2, GOAWAY in between", as.h2(func(c *unrulyH2) {
			if c.number > 1 {
				c.answer(c.next(), "200", renewed)
				return
			}
			stream := c.next()
			c.answer(stream, "200", first)
			c.check(c.WriteGoAway(stream, http2.ErrCodeNo, nil))
		}).with("refresh_ahead 90%"), renewal.after(2)},
		{"HTTP/2, connection closed", renewsH2(func(c *unrulyH2, _ uint32, _ int) { _ = c.Close() }), served.after(2)},
		{"HTTP/2, GOAWAY that saw nothing", renewsH2(func(c *unrulyH2, stream uint32, n int) {
			if n > 2 {
				c.answer(stream, "200", renewed)
			} else {
				c.check(c.WriteGoAway(0, http2.ErrCodeNo, nil))
			}
		}), renewal.after(3)},
		{"HTTP/2, RST_STREAM after the header", renewsH2(func(c *unrulyH2, stream uint32, _ int) {
			c.header(stream, false, ":status", "200")
			c.check(c.WriteRSTStream(stream, http2.ErrCodeInternal))
		}), served.after(2)},
	}

	lab := newUnrulyLab(t, rows)
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

// Pieces of answers.
var (
	unrulyGood    = `{"access_token":"` + unrulyToken + `","token_type":"Bearer","expires_in":3600}`
	unrulyForm    = "access_token=" + unrulyToken + "&token_type=bearer&expires_in=3600"
	unrulyChunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	unrulyPair    = base64.StdEncoding.EncodeToString([]byte(unrulyID + ":" + unrulySecret))
)

func unrulyLength(body string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(body)) }

func unrulyChunks(chunks ...string) string {
	var b strings.Builder
	for _, chunk := range chunks {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
	}
	return b.String()
}

func unrulyGzip(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, body)
	_ = w.Close()
	return b.String()
}

const (
	// How long a token request may take in the rows that stall.
	unrulyStall = 500 * time.Millisecond

	// The default_lifetime of every row; no answer states this one.
	unrulyDefault = 30 * time.Minute
)

// unrulyWant is what comes of a row.
type unrulyWant struct {
	status   int           // what the caller gets
	requests int           // how many token requests arrive until then
	lifetime time.Duration // which the token gets
	token    string        // which reaches the API; "" for none
	code     string        // the OAuth error code that the caller is told
	wait     time.Duration // for which the server asks to be left alone
	timeout  time.Duration // of the token request, if it runs into it
}

type unrulyWants struct{}

// token: the request goes upstream with it.
func (unrulyWants) token(lifetime time.Duration) unrulyWant {
	return unrulyWant{status: 200, requests: 1, lifetime: lifetime, token: unrulyToken}
}

// refused: the server said no.
func (unrulyWants) refused(code string) unrulyWant {
	return unrulyWant{status: 502, requests: 1, code: code}
}

// unusable: the server answered nonsense.
func (unrulyWants) unusable() unrulyWant { return unrulyWant{status: 502, requests: 1} }

// unavailable: the server cannot be reached, is throttling or in trouble.
func (unrulyWants) unavailable(code string) unrulyWant {
	return unrulyWant{status: 503, requests: 1, code: code}
}

func (w unrulyWant) after(requests int) unrulyWant       { w.requests = requests; return w }
func (w unrulyWant) called(token string) unrulyWant      { w.token = token; return w }
func (w unrulyWant) waiting(d time.Duration) unrulyWant  { w.wait = d; return w }
func (w unrulyWant) in(timeout time.Duration) unrulyWant { w.timeout = timeout; return w }

// again is the soonest that another fetch can begin after the first: a
// renewal behind the traffic, or a retry after the shortest backoff.
func (w unrulyWant) again() time.Duration {
	if w.token != "" {
		return w.usable() * 7 / 10
	}
	return w.timeout + max(w.wait, 250*time.Millisecond)
}

// unrulyServer is what stands where the token endpoint should be.
type unrulyServer struct {
	serve       func(*unrulyConn) // what it does with a connection; nil: it accepts none
	prepare     func(*net.TCPListener) error
	certificate string // for TLS; "" for none
	tls         []func(*tls.Config)
	resolve     func(*dnsmessage.Message) // the DNS server's part of an answer

	endpoint  string   // its URL
	config    []string // further lines of the client's block
	transport []string // lines of its transport
}

type unrulyServers struct{}

func (unrulyServers) does(serve func(*unrulyConn)) unrulyServer {
	return unrulyServer{serve: serve, endpoint: "http://127.0.0.1:PORT/token"}
}

// unrulyAnswers gives one answer to whatever is asked.
func unrulyAnswers(answer string) func(*unrulyConn) {
	return func(c *unrulyConn) {
		for c.request() {
			c.send(answer)
		}
	}
}

func (unrulyServers) says(answer string) unrulyServer { return as.does(unrulyAnswers(answer)) }

func (unrulyServers) saysAndCloses(answer string) unrulyServer {
	return as.does(func(c *unrulyConn) {
		if c.request() {
			c.send(answer)
		}
	})
}

func (unrulyServers) saysAndResets(answer string) unrulyServer {
	return as.does(func(c *unrulyConn) {
		if c.request() {
			c.send(answer)
			c.reset()
		}
	})
}

func (unrulyServers) status(status int, body string) unrulyServer {
	return as.says(fmt.Sprintf("HTTP/1.1 %03d Status\r\nContent-Type: application/json\r\n%s\r\n%s", status, unrulyLength(body), body))
}

func (unrulyServers) failing(status int, fields string) unrulyServer {
	return as.says(fmt.Sprintf("HTTP/1.1 %d Status\r\n%s\r\nContent-Length: 0\r\n\r\n", status, fields))
}

func (unrulyServers) redirects(status int, location string) unrulyServer {
	return as.failing(status, "Location: "+location)
}

func (unrulyServers) fields(fields, body string) unrulyServer {
	return as.says("HTTP/1.1 200 OK\r\n" + fields + "\r\n" + unrulyLength(body) + "\r\n" + body)
}

func (unrulyServers) json(body string) unrulyServer {
	return as.fields("Content-Type: application/json", body)
}

// members answers with a token and these further members.
func (unrulyServers) members(members string) unrulyServer {
	return as.json(`{"access_token":"` + unrulyToken + `","token_type":"Bearer",` + members + `}`)
}

// endless begins an answer and does not come to its end.
func (unrulyServers) endless(begin, more string) unrulyServer {
	return as.does(func(c *unrulyConn) {
		if c.request() {
			c.send(begin)
			for more := strings.Repeat(more, 32<<10/len(more)); c.send(more); {
			}
		}
	})
}

// stalls begins an answer and falls silent.
func (unrulyServers) stalls(begin string) unrulyServer {
	return as.does(func(c *unrulyConn) {
		if c.request() {
			c.send(begin)
			c.hold()
		}
	})
}

// drips begins an answer and goes on a little at a time.
func (unrulyServers) drips(begin, more string) unrulyServer {
	return as.does(func(c *unrulyConn) {
		drip := time.NewTicker(unrulyStall / 25)
		defer drip.Stop()
		if c.request() {
			c.send(begin)
			for c.send(more) {
				<-drip.C
			}
		}
	})
}

// absent listens nowhere: port 1 is for a service that nobody runs.
func (unrulyServers) absent() unrulyServer {
	return as.does(nil).at("http://127.0.0.1:1/token")
}

func (unrulyServers) unaccepted(scheme string) unrulyServer {
	return as.does(nil).at(scheme + "://127.0.0.1:PORT/token")
}

// fullBacklog has no room left for a connection, so that the kernel leaves
// the first packet of the next one unanswered.
func (unrulyServers) fullBacklog() unrulyServer {
	s := as.unaccepted("http")
	s.prepare = func(l *net.TCPListener) error {
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { err = unrulyListen(syscall.Listen, fd) }); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		_, err = net.Dial("tcp", l.Addr().String()) // takes the one place
		return err
	}
	return s
}

// unrulyListen calls listen, whose first parameter differs from system to
// system, with no backlog.
func unrulyListen[handle ~int | ~uintptr](listen func(handle, int) error, fd uintptr) error {
	return listen(handle(fd), 0)
}

// silentProxy stands in the way of the connection.
func (unrulyServers) silentProxy() unrulyServer {
	s := as.does(func(c *unrulyConn) { c.hold() }).at("https://auth.invalid/token")
	s.transport = []string{"network_proxy url http://127.0.0.1:PORT"}
	return s
}

// belowTLS has an https URL and speaks something else.
func (unrulyServers) belowTLS(serve func(*unrulyConn)) unrulyServer {
	return as.does(serve).at("https://127.0.0.1:PORT/token").trusting("CA")
}

func (unrulyServers) tls(certificate string, serve func(*unrulyConn)) unrulyServer {
	s := as.belowTLS(serve)
	s.certificate = certificate
	return s
}

// h2 speaks HTTP/2; serve is what it does after the settings are sent, without
// which it stops where they would come.
func (unrulyServers) h2(serve func(*unrulyH2)) unrulyServer {
	return as.tls("good", func(c *unrulyConn) {
		if serve == nil || c.read(len(http2.ClientPreface)) != http2.ClientPreface {
			c.hold()
			return
		}
		h2 := &unrulyH2{unrulyConn: c, Framer: http2.NewFramer(c, c.reader)}
		h2.encoder = hpack.NewEncoder(&h2.encoded)
		h2.check(h2.WriteSettings())
		serve(h2)
		c.hold()
	}).alpn("h2")
}

// dns has a name that only its own DNS server knows: resolve completes the
// answer that it gives; nil: it gives none.
func (unrulyServers) dns(resolve func(*dnsmessage.Message)) unrulyServer {
	s := as.tls("good", unrulyAnswers("HTTP/1.1 200 OK\r\n"+unrulyLength(unrulyGood)+"\r\n"+unrulyGood)).at("https://auth.invalid:PORT/token")
	if s.resolve = resolve; resolve == nil {
		s.resolve = func(m *dnsmessage.Message) { m.Questions = nil }
	}
	s.transport = append(s.transport, "resolvers 127.0.0.1:DNSPORT", "network_proxy none")
	return s
}

func unrulyAddress(m *dnsmessage.Message) {
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		})
	}
}

func (s unrulyServer) at(endpoint string) unrulyServer { s.endpoint = endpoint; return s }

func (s unrulyServer) with(line string) unrulyServer {
	s.config = append(slices.Clone(s.config), line)
	return s
}

func (s unrulyServer) trusting(ca string) unrulyServer {
	s.transport = nil
	if ca != "" {
		s.transport = []string{"tls_trust_pool file " + ca}
	}
	return s
}

func (s unrulyServer) withTLS(change func(*tls.Config)) unrulyServer {
	s.tls = append(slices.Clone(s.tls), change)
	return s
}

func (s unrulyServer) alpn(protocol string) unrulyServer {
	return s.withTLS(func(c *tls.Config) { c.NextProtos = []string{protocol} })
}

func (s unrulyServer) tlsVersion(version uint16) unrulyServer {
	return s.withTLS(func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
}

func (s unrulyServer) demandingCertificate() unrulyServer {
	return s.withTLS(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
}

// unrulySecrets reports what text gives away.
func unrulySecrets(t *testing.T, where, text string) {
	t.Helper()
	for name, value := range map[string]string{"secret": unrulySecret, "token": unrulyToken, "Basic pair": unrulyPair} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(value)) {
			t.Errorf("%s shows the %s: %s", where, name, text)
		}
	}
}

// unrulyResult is what came of a row.
type unrulyResult struct {
	err        error // of the caller
	status     int
	retryAfter string
	body       string
	requests   int            // that had arrived at the endpoint
	elapsed    time.Duration  // by then, since the first of them or since the report
	report     map[string]any // the first report in the log
	lasted     time.Duration  // from before Caddy started until that report
}

// seconds reads a duration in the report.
func (r unrulyResult) seconds(field string) time.Duration {
	n, _ := r.report[field].(float64)
	return time.Duration(n * float64(time.Second))
}

// usable is what is made of a token's lifetime at least: its last second may
// be left out, as servers round.
func (w unrulyWant) usable() time.Duration { return w.lifetime - min(time.Second, w.lifetime/2) }

// checkLifetime compares what the log says is left of a token's life.
func (w unrulyWant) checkLifetime(t *testing.T, got unrulyResult) {
	t.Helper()
	if left := got.seconds("expires_in"); left > w.lifetime || left < w.usable()-got.lasted-time.Millisecond {
		t.Errorf("the token has %s to live, want %s less at most %s: %v", left, w.lifetime, got.lasted, got.report)
	}
}

// checkRenewal is about the first renewal's report, and the caller who comes
// after it.
func (w unrulyWant) checkRenewal(t *testing.T, got unrulyResult) {
	if got.err != nil || got.report == nil {
		t.Fatalf("no answer (%v), or no report on the renewal", got.err)
	}
	if want := "Bearer " + w.token; got.status != 200 || got.body != want {
		t.Errorf("the caller got status %d and the API %q, want 200 and %q", got.status, got.body, want)
	}
	message := "token request failed; the token in hand is still served"
	if w.token != unrulyToken {
		message = "token renewed"
	}
	if got.report["msg"] != message {
		t.Errorf("the log says %v, want %s", got.report, message)
	}
	w.checkLifetime(t, got)

	// A retry may have come by then only if the shortest backoff had gone by.
	retries := int(got.elapsed / (250 * time.Millisecond))
	if got.requests < w.requests || got.requests > w.requests+retries*w.requests {
		t.Errorf("%d token requests arrived, want %d", got.requests, w.requests)
	}
}

func (w unrulyWant) check(t *testing.T, got unrulyResult) {
	if got.err != nil {
		t.Fatalf("the caller got no answer: %v", got.err)
	}
	if got.status != w.status {
		t.Errorf("the caller got status %d, want %d: %s", got.status, w.status, got.body)
	}

	// Exactly so many requests, for each fetch that can have begun by then: on
	// a machine that stalls, a retry may have come before the caller's turn.
	fetches := 1 + int(got.elapsed/w.again())
	if got.requests < w.requests || got.requests > w.requests*fetches {
		t.Errorf("%d token requests arrived within %s, want %d", got.requests, got.elapsed, w.requests)
	}

	if got.report == nil {
		t.Fatal("the log says nothing of how the token request went")
	}
	if w.token != "" {
		if want := "Bearer " + w.token; got.body != want {
			t.Errorf("the API got %.100q, want %.100q", got.body, want)
		}
		w.checkLifetime(t, got)
		return
	}

	unrulySecrets(t, "the caller's answer", got.body)
	want := "no access token for the upstream: "
	if !strings.HasPrefix(got.body, want) || w.code != "" && !strings.HasSuffix(got.body, " ("+w.code+")") || w.code == "" && strings.Contains(got.body, "(") {
		t.Errorf("the caller is told %q, want a text of ours and the code %q", got.body, w.code)
	}
	if code := got.report["oauth_error"]; code != w.code {
		t.Errorf("the log has the OAuth error %q, want %q", code, w.code)
	}
	switch text, _ := got.report["error"].(string); {
	case text == "":
		t.Errorf("the log does not say what happened: %v", got.report)
	case w.timeout == 0 && strings.Contains(text, "in time"):
		t.Errorf("it took the whole timeout: %s", text)
	case w.timeout > 0 && w.requests > 0 && !strings.Contains(text, "'timeout' is "+w.timeout.String()):
		t.Errorf("it was not the timeout that ended it: %s", text)
	}
	shortest, longest := 250*time.Millisecond, time.Second
	if w.wait > 0 {
		shortest, longest = w.wait, w.wait*11/10
	}
	next := got.seconds("next_attempt_in")
	if next < shortest-time.Millisecond || next > longest+time.Millisecond {
		t.Errorf("the next attempt comes in %s, want between %s and %s", next, shortest, longest)
	}
	switch after, err := strconv.Atoi(got.retryAfter); {
	case w.status != 503 && got.retryAfter != "":
		t.Errorf("the caller is asked to come back after %s, want never", got.retryAfter)
	case w.status == 503 && (err != nil || after < 1 || time.Duration(after-1)*time.Second > max(longest, 2*time.Second)):
		t.Errorf("the caller is asked to come back after %q, want about %s", got.retryAfter, next)
	}
}

// unrulyLab is a Caddy with one route for each row, the rows' servers, the API
// behind the proxy, and a host where nothing may arrive.
type unrulyLab struct {
	rows      []unrulyRow
	endpoints []*unrulyEndpoint
	log       *unrulyLog
	caddyfile string
	caller    *http.Client
	started   time.Time
	elsewhere atomic.Int32
}

func newUnrulyLab(t *testing.T, rows []unrulyRow) *unrulyLab {
	// Not t.TempDir: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "unruly")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "caddy.sock")
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, unrulyPKI().ca, 0o600); err != nil {
		t.Fatal(err)
	}

	lab := &unrulyLab{rows: rows, log: newUnrulyLog(t)}
	dialer := new(net.Dialer)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	lab.caller = &http.Client{Transport: transport, Timeout: 10 * time.Second}

	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header["Authorization"], ", "))
	}))
	t.Cleanup(api.Close)
	other := newUnrulyEndpoint(t, as.does(func(*unrulyConn) { lab.elsewhere.Add(1) }), "")

	// A socket instead of a port, so that no other process can take it first.
	var b strings.Builder
	fmt.Fprintf(&b, `{
	admin off
	persist_config off
	auto_https off
	storage file_system %s
	log {
		output net %s
		format json
		level DEBUG
	}
}
http://proxy.test {
	bind unix/%s
	handle_errors {
		respond "{err.message}"
	}
`, dir, lab.log.address, socket)
	names := make(map[string]bool)
	for i, row := range rows {
		if names[row.name] {
			t.Fatalf("two rows are called %q, and the log could not tell them apart", row.name)
		}
		names[row.name] = true
		endpoint := newUnrulyEndpoint(t, row.server, other.address)
		lab.endpoints = append(lab.endpoints, endpoint)
		lines := append([]string{
			"token_endpoint " + row.server.endpoint,
			"client_id " + unrulyID,
			"client_secret " + unrulySecret,
			"default_lifetime " + unrulyDefault.String(),
		}, row.server.config...)
		if row.want.timeout > 0 {
			lines = append(lines, "timeout "+row.want.timeout.String())
		}
		if len(row.server.transport) > 0 {
			lines = append(lines, "transport http {", strings.Join(row.server.transport, "\n"), "}")
		}
		place := strings.NewReplacer("DNSPORT", endpoint.dnsPort, "PORT", endpoint.port, " CA", " "+ca)
		fmt.Fprintf(&b, "handle /%d {\nupstream_oauth2 %q {\n%s\n}\nreverse_proxy %s\n}\n",
			i, row.name, place.Replace(strings.Join(lines, "\n")), api.Listener.Addr())
	}
	b.WriteString("}\n")
	lab.caddyfile = b.String()
	return lab
}

// load starts Caddy, which fetches the first token of every row.
func (lab *unrulyLab) load(t *testing.T) {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(lab.caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, lab.caddyfile)
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "formatted") {
			t.Error(w)
		}
	}
	lab.started = time.Now()
	if err := caddy.Load(lab.withSink(t, config), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}

// withSink sends to the log, too, what net/http and others write with package
// log: a Caddyfile has no line for it.
func (lab *unrulyLab) withSink(t *testing.T, config []byte) []byte {
	t.Helper()
	var whole, logging map[string]json.RawMessage
	if err := json.Unmarshal(config, &whole); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(whole["logging"], &logging); err != nil {
		t.Fatal(err)
	}
	logging["sink"] = json.RawMessage(`{"writer":{"output":"net","address":"` + lab.log.address + `"},"encoder":{"format":"json"}}`)
	whole["logging"] = caddyconfig.JSON(logging, nil)
	return caddyconfig.JSON(whole, nil)
}

// stop ends Caddy and waits for the last line of its log: that it will go
// elsewhere from then on.
func (lab *unrulyLab) stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	elsewhere := `{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"level":"ERROR"}}}}`
	if err := caddy.Load([]byte(elsewhere), true); err != nil {
		t.Error(err)
	}
	select {
	case <-lab.log.redirected:
	case <-time.After(10 * time.Second):
		t.Error("the log has no end")
	}
}

// ask is one caller's request.
func (lab *unrulyLab) ask(i int) (result unrulyResult) {
	resp, err := lab.caller.Get(fmt.Sprintf("http://proxy.test/%d", i))
	if err != nil {
		return unrulyResult{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return unrulyResult{err: err, status: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After"), body: string(body)}
}

// call is one caller's request together with what it left behind.
func (lab *unrulyLab) call(i int) unrulyResult {
	result := lab.ask(i)
	result.requests, result.elapsed = lab.endpoints[i].count()
	if result.err == nil {
		result.report = lab.log.report(lab.rows[i].name)
	}
	result.lasted = time.Since(lab.started)
	return result
}

// callAgain calls, waits for the token's renewal to be reported either way,
// and asks once more.
func (lab *unrulyLab) callAgain(i int) unrulyResult {
	first := lab.call(i)
	if first.err != nil || first.report == nil {
		return first
	}
	report := lab.log.report(lab.rows[i].name)
	requests, _ := lab.endpoints[i].count()
	lasted := time.Since(lab.started)
	logged, _ := report["ts"].(float64)
	elapsed := time.Since(time.UnixMicro(int64(logged * 1e6)))

	result := lab.ask(i)
	result.report, result.requests, result.elapsed, result.lasted = report, requests, elapsed, lasted
	return result
}

// each does something for every row, all at once: the first tokens are on
// their way since Caddy has started.
func (lab *unrulyLab) each(do func(int) unrulyResult) []unrulyResult {
	results := make([]unrulyResult, len(lab.rows))
	var callers sync.WaitGroup
	for i := range lab.rows {
		callers.Go(func() { results[i] = do(i) })
	}
	callers.Wait()
	return results
}

// checkLog looks for secrets in the lines about a client, or about none.
func (lab *unrulyLab) checkLog(t *testing.T, client string) {
	t.Helper()
	for _, line := range lab.log.about(client) {
		unrulySecrets(t, "the log", line)
	}
}

// checkElsewhere makes sure that no credential left the endpoints.
func (lab *unrulyLab) checkElsewhere(t *testing.T) {
	t.Helper()
	if n := lab.elsewhere.Load(); n != 0 {
		t.Errorf("another host was asked %d times", n)
	}
}

// unrulyEndpoint is the server of one row at work.
type unrulyEndpoint struct {
	server                 unrulyServer
	address, port, dnsPort string
	other                  string // a host where nothing may arrive

	mu       sync.Mutex
	requests int
	first    time.Time
	open     map[net.Conn]bool
	closed   bool
}

func newUnrulyEndpoint(t *testing.T, server unrulyServer, other string) *unrulyEndpoint {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	e := &unrulyEndpoint{server: server, address: l.Addr().String(), other: other, open: make(map[net.Conn]bool)}
	_, e.port, _ = net.SplitHostPort(e.address)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		e.close()
		serving.Wait()
	})
	if server.prepare != nil {
		if err := server.prepare(l); err != nil {
			t.Fatal(err)
		}
	}
	if server.resolve != nil {
		dns, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dns.Close() })
		_, e.dnsPort, _ = net.SplitHostPort(dns.LocalAddr().String())
		go e.serveDNS(dns)
	}
	if server.serve == nil {
		return e
	}
	serving.Go(func() {
		for n := 1; ; n++ {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			if !e.keep(conn) {
				return
			}
			serving.Go(func() { e.serve(n, conn) })
		}
	})
	return e
}

func (e *unrulyEndpoint) keep(conn net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		_ = conn.Close()
		return false
	}
	e.open[conn] = true
	return true
}

func (e *unrulyEndpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for conn := range e.open {
		_ = conn.Close()
	}
}

func (e *unrulyEndpoint) serve(n int, tcp *net.TCPConn) {
	c := &unrulyConn{Conn: tcp, tcp: tcp, endpoint: e, number: n}
	if e.server.certificate != "" {
		config := &tls.Config{Certificates: []tls.Certificate{unrulyPKI().leaves[e.server.certificate]}}
		for _, change := range e.server.tls {
			change(config)
		}
		c.Conn = tls.Server(tcp, config)
	}
	defer tcp.Close()
	defer c.Close()
	c.reader = bufio.NewReader(c.Conn)
	e.server.serve(c)
}

// arrived notes a token request.
func (e *unrulyEndpoint) arrived() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.requests++; e.requests == 1 {
		e.first = time.Now()
	}
}

// count returns how many token requests have arrived, and how long ago the
// first one did.
func (e *unrulyEndpoint) count() (int, time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.requests == 0 {
		return 0, 0
	}
	return e.requests, time.Since(e.first)
}

func (e *unrulyEndpoint) serveDNS(conn net.PacketConn) {
	packet := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(packet)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(packet[:n]) != nil {
			continue
		}
		answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		e.server.resolve(&answer)
		if answer.Questions == nil {
			continue
		}
		if packed, err := answer.Pack(); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

// unrulyConn is a connection to a row's server.
type unrulyConn struct {
	net.Conn
	tcp      *net.TCPConn
	reader   *bufio.Reader
	endpoint *unrulyEndpoint
	number   int // counts the server's connections from 1
}

// request reads a whole token request; false if there is none any more.
func (c *unrulyConn) request() bool {
	r, err := http.ReadRequest(c.reader)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return false
	}
	c.endpoint.arrived()
	return true
}

// send writes text, in which OTHER stands for the host where nothing may
// arrive; false if that is no longer possible.
func (c *unrulyConn) send(text string) bool {
	_, err := io.WriteString(c, strings.ReplaceAll(text, "OTHER", c.endpoint.other))
	return err == nil
}

// read returns the next n bytes.
func (c *unrulyConn) read(n int) string {
	b := make([]byte, n)
	n, _ = io.ReadFull(c.reader, b)
	return string(b[:n])
}

// hold does nothing until the client hangs up.
func (c *unrulyConn) hold() { _, _ = io.Copy(io.Discard, c.reader) }

func (c *unrulyConn) halfClose() { _ = c.tcp.CloseWrite() }

// reset closes the connection so that the client gets an error, not an end.
func (c *unrulyConn) reset() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// unrulyH2 is a connection on which HTTP/2 is spoken, frame by frame.
type unrulyH2 struct {
	*unrulyConn
	*http2.Framer
	encoder *hpack.Encoder
	encoded bytes.Buffer
}

// check drops the connection once it cannot be written to.
func (c *unrulyH2) check(err error) {
	if err != nil {
		_ = c.tcp.Close()
	}
}

// next returns the stream of the next whole token request; 0 if there is none
// any more.
func (c *unrulyH2) next() uint32 {
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.check(c.WriteSettingsAck())
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				c.endpoint.arrived()
				return f.StreamID
			}
		}
	}
}

func (c *unrulyH2) block(fields ...string) []byte {
	c.encoded.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: strings.ReplaceAll(fields[i+1], "OTHER", c.endpoint.other)})
	}
	return slices.Clone(c.encoded.Bytes())
}

func (c *unrulyH2) header(stream uint32, end bool, fields ...string) {
	c.check(c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block(fields...), EndStream: end, EndHeaders: true}))
}

func (c *unrulyH2) data(stream uint32, end bool, data string) {
	c.check(c.WriteData(stream, end, []byte(data)))
}

func (c *unrulyH2) answer(stream uint32, status, body string) {
	c.header(stream, false, ":status", status)
	c.data(stream, true, body)
}

func (c *unrulyH2) answerAll() {
	for stream := c.next(); stream != 0; stream = c.next() {
		c.answer(stream, "200", unrulyGood)
	}
}

// unrulyLog receives Caddy's log over a socket and hands out the reports on
// token requests, by the client's name.
type unrulyLog struct {
	address    string
	redirected chan struct{} // closed by its last line

	mu      sync.Mutex
	lines   map[string][]string            // by client; "" for none
	reports map[string]chan map[string]any // on token requests, by client
}

func newUnrulyLog(t *testing.T) *unrulyLog {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	collected := &unrulyLog{
		address:    l.Addr().String(),
		redirected: make(chan struct{}),
		lines:      make(map[string][]string),
		reports:    make(map[string]chan map[string]any),
	}
	// Caddy sets package log's output, and does not put it back.
	output, flags, prefix := log.Writer(), log.Flags(), log.Prefix()
	t.Cleanup(func() {
		_ = l.Close()
		log.SetOutput(output)
		log.SetFlags(flags)
		log.SetPrefix(prefix)
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go collected.read(conn)
		}
	}()
	return collected
}

func (l *unrulyLog) read(conn net.Conn) {
	defer conn.Close()
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var fields map[string]any
		_ = json.Unmarshal([]byte(line), &fields)
		client, _ := fields["client"].(string)
		message, _ := fields["msg"].(string)

		l.mu.Lock()
		l.lines[client] = append(l.lines[client], line)
		l.mu.Unlock()
		switch {
		case message == "redirected default logger":
			close(l.redirected)
		case slices.Contains(unrulyReports, message):
			select {
			case l.reportsOf(client) <- fields:
			default: // nobody wants so many
			}
		}
	}
}

// unrulyReports are the messages on how a token request went.
var unrulyReports = []string{
	"first token obtained",
	"token renewed",
	"token obtained again",
	"token request failed; the token in hand is still served",
	"token request failed; requests are answered without going upstream",
}

func (l *unrulyLog) reportsOf(client string) chan map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reports[client] == nil {
		l.reports[client] = make(chan map[string]any, 16)
	}
	return l.reports[client]
}

// report waits for the client's next report; nil if there is none for long.
func (l *unrulyLog) report(client string) map[string]any {
	select {
	case fields := <-l.reportsOf(client):
		return fields
	case <-time.After(10 * time.Second):
		return nil
	}
}

// about returns the lines that name the client; those that name none for "".
func (l *unrulyLog) about(client string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines[client])
}

// unrulyPKI is a certificate authority with a certificate for each way in
// which one can be wrong.
var unrulyPKI = sync.OnceValue(func() (pki struct {
	ca     []byte // PEM
	leaves map[string]tls.Certificate
}) {
	now := time.Now()
	serial := int64(0)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // one for all
	if err != nil {
		panic(err)
	}
	issue := func(parent *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
		serial++
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: fmt.Sprintf("unruly %d", serial)},
			NotBefore:    now.Add(-time.Hour),
			NotAfter:     now.Add(time.Hour),
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:     []string{"localhost", "auth.invalid"},
			IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		change(template)
		if parent == nil {
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return certificate
	}
	authority := func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.DNSNames, c.IPAddresses, c.ExtKeyUsage = nil, nil, nil
	}
	unchanged := func(*x509.Certificate) {}
	root, stranger := issue(nil, authority), issue(nil, authority)
	intermediate := issue(root, authority)

	pki.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	pki.leaves = make(map[string]tls.Certificate)
	for name, chain := range map[string][]*x509.Certificate{
		"good":        {issue(root, unchanged)},
		"chained":     {issue(intermediate, unchanged), intermediate},
		"unchained":   {issue(intermediate, unchanged)},
		"stranger":    {issue(stranger, unchanged), stranger},
		"self-signed": {issue(nil, unchanged)},
		"expired":     {issue(root, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })},
		"early":       {issue(root, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) })},
		"elsewhere":   {issue(root, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"elsewhere.invalid"}, nil })},
		"named":       {issue(root, func(c *x509.Certificate) { c.IPAddresses = nil })},
		"common name": {issue(root, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames, c.IPAddresses = "127.0.0.1", nil, nil })},
		"client":      {issue(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })},
	} {
		leaf := tls.Certificate{PrivateKey: key}
		for _, certificate := range chain {
			leaf.Certificate = append(leaf.Certificate, certificate.Raw)
		}
		pki.leaves[name] = leaf
	}
	return pki
})
