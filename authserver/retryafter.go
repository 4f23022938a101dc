package authserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds how long a server can keep us away: beyond it, asking
// once more does no harm and heals what the server got wrong.
const maxRetryAfter = 10 * time.Minute

// resetFields carry, in a 429 or 503 without Retry-After, the time at which a
// rate limit ends: seconds from now, or seconds since 1970 at Okta and others.
var resetFields = []string{"RateLimit-Reset", "X-RateLimit-Reset", "X-Rate-Limit-Reset"}

// retryAfter returns how long the answer asks to wait, between 0 and
// maxRetryAfter; 0 if it does not ask, or not in a way that can be read
// (RFC 9110 section 10.2.3).
func retryAfter(status int, header http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(header.Get("Retry-After"))
	if at, err := http.ParseTime(v); err == nil {
		return bound(at.Sub(now))
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return boundSeconds(n)
	}
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	for _, name := range resetFields {
		n, err := strconv.ParseInt(strings.TrimSpace(header.Get(name)), 10, 64)
		if err != nil {
			continue
		}
		const year = 365 * 24 * 60 * 60
		if n > year {
			n -= now.Unix()
		}
		return boundSeconds(n)
	}
	return 0
}

func boundSeconds(n int64) time.Duration {
	return bound(time.Duration(min(max(n, 0), int64(maxRetryAfter/time.Second))) * time.Second)
}

func bound(d time.Duration) time.Duration {
	return min(max(d, 0), maxRetryAfter)
}
