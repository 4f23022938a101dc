package authserver

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// unreachable is the error of a request that got no answer, or no whole one.
func unreachable(err error, timeout time.Duration, secrets []string) *Error {
	// Without the wrapping of net/http, which repeats the URL and its query.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	kind, what := Unavailable, "the authorization server cannot be reached"
	alert := alertOf(err)
	switch {
	case isTimeout(err):
		what = fmt.Sprintf("the authorization server gave no whole answer in time ('timeout' is %s)", timeout)
	case isMalformed(err):
		kind, what = Unreadable, "the authorization server's answer is malformed"
	case alert != nil:
		what = "the authorization server does not accept the TLS connection"
		err = alert // without what net/http was about to do
	}
	why := err.Error()
	if strings.Contains(why, "transport connection broken") {
		// What net/http quotes here may be anything, a token that was just
		// issued included.
		why = quotation.ReplaceAllString(why, "...")
	}
	return &Error{Kind: kind, what: what + ": " + redact(why, secrets), remedy: remedyFor(err)}
}

// remedyFor returns the next step for a connection that did not come about; "" if
// the failure tells none.
func remedyFor(err error) string {
	switch invalid, ok := errors.AsType[x509.CertificateInvalidError](err); {
	case is[x509.UnknownAuthorityError](err):
		return "if the certificate is from an authority of your own, write 'transport http { tls_trust_pool file <its certificate> }'"
	case is[x509.HostnameError](err):
		return "the server's certificate is for another name: check the host in the URL, or write 'transport http { tls_server_name <the name> }'"
	case ok && invalid.Reason == x509.Expired:
		return "the server's certificate has expired, or is not valid yet: have it renewed, or check this machine's clock"
	case is[*net.DNSError](err):
		return "check the host in the URL, and what this machine's DNS says of it"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check host and port in the URL, and that the server is running"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "check this machine's routes and firewall, and the host in the URL"
	case is[tls.RecordHeaderError](err):
		return "the server speaks plain HTTP there: check scheme and port in the URL"
	}
	return ""
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// rejectsCertificate reports whether the failure may be how a server, or a proxy in
// front of it, turns a client certificate down: such a one says no before OAuth
// begins. 495 and 496 are nginx's.
func (e *Error) rejectsCertificate() bool {
	switch e.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, 495, 496:
		return e.Code == ""
	}
	return e.hungUp
}

// alertOf returns the alert with which a server ended the TLS connection, nil if
// there was none: it does not accept our certificate, most often. crypto/tls has no
// type for it.
func alertOf(err error) error {
	if ended, ok := errors.AsType[*net.OpError](err); ok && ended.Op == "remote error" {
		return ended
	}
	return nil
}

// hungUp reports whether a server ended the connection in place of an answer: with
// a TLS alert, or without a word. net/http has no type for a connection that was
// closed before the request was on its way.
func hungUp(err error) bool {
	why := err.Error()
	return alertOf(err) != nil ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || // HTTP/1.1, HTTP/2
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(why, "server closed idle connection") || strings.Contains(why, "http2: client conn ")
}

var quotation = regexp.MustCompile(`(?s)".*"`)

// isMalformed tells an answer that is no HTTP, or not in the encoding it claims,
// from one that was cut off. net/http has no type for the former.
func isMalformed(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	_, quoted, noHTTP := strings.Cut(err.Error(), "malformed HTTP response ")
	return corrupt ||
		errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) ||
		noHTTP && !strings.HasPrefix(quoted, `"HT`)
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}
