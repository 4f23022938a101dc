package authserver

import (
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// connection tells whether a request that failed may have reached the server, which
// matters where it spends something.
type connection struct {
	wanted, made atomic.Bool
}

// traced returns the request with a trace of its connection.
func traced(r *http.Request) (*http.Request, *connection) {
	c := new(connection)
	return r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GetConn: func(string) { c.wanted.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { c.made.Store(true) },
	})), c
}

// never reports whether no connection was made. A transport that says nothing of
// connections, as for HTTP/3, may have made one.
func (c *connection) never() bool { return c.wanted.Load() && !c.made.Load() }
