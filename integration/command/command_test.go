package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// The tests of the commands run the Caddy of cmd/caddy as a process, as people do.

// caddyBinary builds it, once.
var caddyBinary = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "upstream-oauth2-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(folder, "caddy")
	out, err := exec.Command("go", "build", "-o", file, "../../cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

// TestMain removes what was built.
func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		file, _ := caddyBinary()
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

var built bool

// signInServer is an authorization server at which somebody consents, or not.
type signInServer struct {
	*caddytest.AuthServer

	mu      sync.Mutex
	denies  bool
	noMore  bool // no refresh token
	devices bool
}

func newSignInServer(t *testing.T) *signInServer {
	t.Helper()
	s := &signInServer{AuthServer: caddytest.NewAuthServer(t), devices: true}
	s.Answers(s.answer)
	t.Setenv("ISSUER", s.URL)
	return s
}

func (s *signInServer) answer(w http.ResponseWriter, r caddytest.TokenRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/oauth-authorization-server":
		device := ""
		if s.devices {
			device = fmt.Sprintf(`"device_authorization_endpoint":"%s/device",`, s.URL)
		}
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"issuer":%q,"token_endpoint":"%[2]s/token",%[3]s
			"authorization_endpoint":"%[2]s/authorize","revocation_endpoint":"%[2]s/revoke"}`, s.URL, s.URL, device))
	case "/authorize":
		asked := r.URL.Query()
		answer := url.Values{"state": asked["state"], "code": {"the-code"}}
		if s.denies {
			answer = url.Values{"state": asked["state"], "error": {"access_denied"}}
		}
		http.Redirect(w, r.Request, asked.Get("redirect_uri")+"?"+answer.Encode(), http.StatusFound)
	case "/device":
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"device_code":"D","user_code":"WDJB-MJHT","verification_uri":"%s/enter","expires_in":60,"interval":1}`, s.URL))
	case "/revoke":
		w.WriteHeader(http.StatusOK)
	default:
		switch {
		case r.PostForm.Get("refresh_token") == "mistyped":
			caddytest.Say(w, http.StatusBadRequest, `{"error":"invalid_grant"}`)
		case r.PostForm.Get("device_code") != "" && s.denies:
			caddytest.Say(w, http.StatusBadRequest, `{"error":"access_denied"}`)
		case s.noMore:
			caddytest.Say(w, http.StatusOK, `{"access_token":"access","token_type":"Bearer","expires_in":3600}`)
		default:
			caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"access-%d","token_type":"Bearer","expires_in":3600,"refresh_token":"refresh-%[1]d","scope":"read"}`, r.Number))
		}
	}
}

// surroundings are those of one command: no display, and folders of its own.
type surroundings struct {
	t       *testing.T
	config  string
	storage string
	env     []string
}

const signInConfig = `
{
	storage file_system {$GRANTS}
	upstream_oauth2 {
		encryption_key {env.KEY}
		client partner {
			issuer {$ISSUER}
			client_id partner-id
			client_secret {env.PARTNER_SECRET}
			grant authorization_code
			scope read write
			timeout 5s
		}
	}
}
`

const (
	commandKey      = "b7ZpCqd2JrLbZ9tqkLwS9Qm0m4Vq0Jm1b5kq1mJq0rA="
	otherCommandKey = "a7ZpCqd2JrLbZ9tqkLwS9Qm0m4Vq0Jm1b5kq1mJq0rA="
)

// surround returns the surroundings for a Caddyfile.
func surround(t *testing.T, caddyfile string) *surroundings {
	t.Helper()
	folder := t.TempDir()
	s := &surroundings{t: t, config: filepath.Join(folder, "Caddyfile"), storage: filepath.Join(folder, "grants")}
	if err := os.MkdirAll(s.storage, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "KEY=" + commandKey, "PARTNER_SECRET=partner-secret", "GRANTS=" + s.storage,
		"ISSUER=" + os.Getenv("ISSUER"), "TOKEN_ENDPOINT=" + os.Getenv("TOKEN_ENDPOINT"),
	}
	return s
}

// command is one that runs.
type command struct {
	*exec.Cmd
	t      *testing.T
	stdin  io.WriteCloser
	stdout bytes.Buffer
	lines  chan string // of standard error
	stderr strings.Builder
}

// start starts a command of ours.
func (s *surroundings) start(args ...string) *command {
	s.t.Helper()
	built = true
	file, err := caddyBinary()
	if err != nil {
		s.t.Fatal(err)
	}
	args = append([]string{"upstream-oauth2"}, append(args, "--config", s.config)...)
	c := &command{Cmd: exec.CommandContext(s.t.Context(), file, args...), t: s.t, lines: make(chan string, 1000)}
	c.Env = s.env
	c.Cmd.Stdout = &c.stdout
	c.stdin, _ = c.StdinPipe()
	stderr, _ := c.StderrPipe()
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(c.lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			c.lines <- scanner.Text()
		}
	}()
	return c
}

// until returns the first line of standard error that matches.
func (c *command) until(pattern string) string {
	c.t.Helper()
	expression := regexp.MustCompile(pattern)
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				c.t.Fatalf("there is no line like %s in\n%s", pattern, c.stderr.String())
			}
			c.stderr.WriteString(line + "\n")
			if expression.MatchString(line) {
				return line
			}
		case <-time.After(caddytest.Patience):
			c.t.Fatalf("a line like %s never came after\n%s", pattern, c.stderr.String())
		}
	}
}

// end waits for the end, and checks the exit code.
func (c *command) end(code int) (stdout, stderr string) {
	c.t.Helper()
	for line := range c.lines {
		c.stderr.WriteString(line + "\n")
	}
	err := c.Wait()
	got := 0
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exited.ExitCode()
	} else if err != nil {
		c.t.Fatal(err)
	}
	if got != code {
		c.t.Errorf("%s: the exit code is %d, want %d\n%s%s", strings.Join(c.Args[1:], " "), got, code, c.stdout.String(), c.stderr.String())
	}
	return c.stdout.String(), c.stderr.String()
}

// run runs a command of ours to its end.
func (s *surroundings) run(code int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	c := s.start(args...)
	_ = c.stdin.Close()
	return c.end(code)
}

// states returns what the list says, as client/account state.
func (s *surroundings) states() string {
	s.t.Helper()
	stdout, _ := s.run(0, "list", "--json")
	var connections []struct{ Client, Account, State string }
	if err := json.Unmarshal([]byte(stdout), &connections); err != nil {
		s.t.Fatalf("%v: %s", err, stdout)
	}
	var states []string
	for _, c := range connections {
		states = append(states, c.Client+"/"+c.Account+" "+c.State)
	}
	return strings.Join(states, ", ")
}

// withBrowser gives the surroundings a browser that does as its person does.
func (s *surroundings) withBrowser() {
	s.t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		s.t.Skip("curl is not here")
	}
	browser := filepath.Join(filepath.Dir(s.config), "browser")
	if err := os.WriteFile(browser, []byte("#!/bin/sh\nexec curl -sL --max-time 20 \"$1\" -o \""+browser+".page\"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.env = append(s.env, "BROWSER="+browser)
}

const anAddress = `^http://127\.0\.0\.1:\d+/authorize\?`

// browse opens an address as a browser elsewhere does, and returns the one at which it
// ends.
func browse(t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.Header.Get("Location")
}
