package tokensource

import (
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialError is Caddy's DialError with its cause, which that keeps to itself: it has no
// Unwrap, so that nobody could tell what to check.
type dialError struct {
	reverseproxy.DialError
	cause error
}

func (e dialError) Unwrap() error { return e.cause }

// withCause adds the cause to a DialError, as far as its text tells it. Other errors
// are returned as they are.
func withCause(err error) error {
	dial, ok := errors.AsType[reverseproxy.DialError](err)
	if !ok {
		return err
	}
	text := dial.Error()
	for _, cause := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
		if strings.HasSuffix(text, cause.Error()) {
			return dialError{dial, cause}
		}
	}
	if strings.Contains(text, ": lookup ") {
		return dialError{dial, new(net.DNSError)}
	}
	return err
}
