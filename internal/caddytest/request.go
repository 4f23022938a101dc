package caddytest

import (
	"io"
	"net/http"
	"os"
)

// Answer is an answer, read whole.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Get sends a request to {$SITE}. The header may be nil; its names are sent as
// they are spelled.
func (c *Caddy) Get(path string, header http.Header) Answer {
	c.t.Helper()
	return c.Send(http.MethodGet, os.Getenv("SITE"), path, header)
}

// Send is Get with a method, to any address.
func (c *Caddy) Send(method, address, path string, header http.Header) Answer {
	c.t.Helper()
	answer, err := c.Try(method, address, path, header)
	for retries := 1; err != nil && retries < c.loads; retries++ {
		// Caddy closes its old port behind the reload, with what waits there.
		answer, err = c.Try(method, address, path, header)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// Try is Send for goroutines, and for requests that may fail.
func (c *Caddy) Try(method, address, path string, header http.Header) (Answer, error) {
	r, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		return Answer{}, err
	}
	if header != nil {
		r.Header = header
	}
	return Do(c.Client, r)
}

// Want fails the test unless a request to {$SITE} is answered with status.
func (c *Caddy) Want(status int) {
	c.t.Helper()
	if answer := c.Get("/", nil); answer.Status != status {
		c.t.Fatalf("status %d, want %d: %s", answer.Status, status, answer.Body)
	}
}

// GetAs sends a request of that user, whom the field X-User names.
func (c *Caddy) GetAs(user string) Answer {
	c.t.Helper()
	return c.Get("/", http.Header{"X-User": {user}})
}

// WantAs fails the test unless a request of that user is answered with status.
func (c *Caddy) WantAs(user string, status int) {
	c.t.Helper()
	if answer := c.GetAs(user); answer.Status != status {
		c.t.Fatalf("status %d for %s, want %d: %s\nthe log says %v", answer.Status, user, status, answer.Body, c.Logged(LogFailed))
	}
}

// Do sends a request and reads the answer.
func Do(client *http.Client, r *http.Request) (Answer, error) {
	resp, err := client.Do(r)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, string(body)}, err
}
