package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestNothingLeaks runs the real program, with all the logging there is, before
// every way to prove a client and every grant, against servers that repeat what
// they were sent in all the ways they can. Then it reads everything that came
// out of the process.
func TestNothingLeaks(t *testing.T) {
	kept := newSecrets()
	auth := newEchoServer(kept)
	authServer := httptest.NewServer(auth)
	t.Cleanup(authServer.Close)
	api := httptest.NewServer(http.HandlerFunc(kept.api))
	t.Cleanup(api.Close)

	clients := leakingClients(t, kept)
	process := startCaddy(t, leakCaddyfile(clients), map[string]string{
		"AS": authServer.URL, "API": api.Listener.Addr().String(), "DEAD": caddytest.FreeAddress(t),
	}, kept.environment())

	shown := make(map[string]string) // what came out, by where
	var answers lockedBuffer
	together(len(clients), func(i int) bool {
		paths := []string{"/?q=1"}
		if clients[i].mode == "issues" {
			paths = []string{"/once", "/", "/rejects", "/dead", "/breaks"}
		}
		for _, path := range paths {
			for _, method := range []string{"GET", "POST", "TRACE"} {
				fmt.Fprintln(&answers, process.send(method, "/"+clients[i].name+path, kept.callers(clients[i].name)))
			}
		}
		return true
	})
	caddytest.Eventually(t, "the log told of each client", func() bool {
		log := process.output.String()
		return !slices.ContainsFunc(clients, func(c leakingClient) bool { return !strings.Contains(log, `"client":"`+c.name+`"`) })
	})

	shown["answers to callers"] = answers.String()
	for _, path := range []string{"/config/", "/metrics", "/reverse_proxy/upstreams", "/debug/vars", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline"} {
		shown["admin "+path] = process.admin(path)
	}
	if !strings.Contains(shown["admin /config/"], "{env.HIDDEN_") {
		t.Error("the admin API does not show the config")
	}
	autosave, err := os.ReadFile(filepath.Join(process.home, "config", "caddy", "autosave.json"))
	if err != nil {
		t.Fatal(err)
	}
	shown["autosave"] = string(autosave)
	for _, c := range clients {
		if c.mode == "issues" {
			go process.send("POST", "/"+c.name+"/hangs", kept.callers(c.name))
		}
	}
	caddytest.Eventually(t, "requests were on their way", func() bool { return kept.hanging() >= 10 })
	process.crash() // with a trace of each goroutine
	shown["stdout and stderr"] = process.output.String()
	if !strings.Contains(shown["stdout and stderr"], "SIGABRT") {
		t.Error("the process did not say where it was when it crashed")
	}

	files := 0
	err = filepath.WalkDir(process.home, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		shown["file "+path] = string(content)
		files++
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files found in Caddy's home, %v", files, err)
	}

	kept.checkSent(t)
	for where, text := range shown {
		kept.check(t, where, text)
	}
}

// leakingClient is one client of the Caddyfile, with a secret of its own.
type leakingClient struct {
	name  string
	lines string
	mode  string // of the echoServer
}

// leakingClients are all ways to prove a client and all grants, each before a
// server of each kind.
func leakingClients(t testing.TB, kept *secrets) []leakingClient {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(keyFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	kept.note("private key", strings.Split(string(text), "\n")[1])

	ways := []struct{ name, lines string }{
		// In each line, SECRET becomes a placeholder for a secret.
		{"basic", "client_id id\nclient_secret SECRET"},
		{"basic_raw", "client_id id\nclient_secret SECRET\nclient_auth client_secret_basic_raw"},
		{"post", "client_id id\nclient_secret SECRET\nclient_auth client_secret_post"},
		{"secret_jwt", "client_id id\nclient_secret SECRET\nclient_auth client_secret_jwt"},
		{"key_jwt", "client_id id\nclient_auth private_key_jwt {\nkey " + keyFile + "\n}"},
		{"assertion_file", "client_id id\nclient_auth assertion_file FILE"},
		{"params", "client_id id\nclient_auth none\ntoken_param otp SECRET\ntoken_header X-Key SECRET"},
		{"refresh", "client_id id\nclient_auth none\ngrant refresh_token {\nrefresh_token SECRET\n}\nrefresh_ahead 90%"},
		{"jwt_bearer", "grant jwt_bearer {\nassertion SECRET\n}"},
		{"jwt_bearer_signed", "client_id id\nclient_auth none\ngrant jwt_bearer {\nkey " + keyFile + "\nsubject s\n}"},
		{"jwt_bearer_caller", "grant jwt_bearer {\nassertion {http.request.header.Authorization}\n}"},
		{"exchange", "client_id id\nclient_secret SECRET\ngrant token_exchange {\nactor_token SECRET\n}"},
		{"query", "client_id id\nclient_secret SECRET\ninject query access_token"},
		{"dpop", "client_id id\nclient_secret SECRET\ndpop\nupstream_base https://api.example"},
		{"pass", "client_id id\nclient_secret SECRET\non_error pass"},
	}
	var clients []leakingClient
	for _, way := range ways {
		for mode := range echoes {
			c := leakingClient{name: way.name + "-" + strings.ReplaceAll(mode, " ", "-"), mode: mode}
			c.lines = way.lines
			for n := 1; strings.Contains(c.lines, "SECRET"); n++ {
				c.lines = strings.Replace(c.lines, "SECRET", kept.placeholder(fmt.Sprintf("%s, secret %d", c.name, n)), 1)
			}
			if strings.Contains(c.lines, "FILE") {
				path := filepath.Join(t.TempDir(), "assertion")
				caddytest.WriteSecret(t, path, kept.plantJWT("the assertion of "+c.name))
				c.lines = strings.Replace(c.lines, "FILE", path, 1)
			}
			clients = append(clients, c)
		}
	}
	return clients
}

// leakCaddyfile has a route for each client, and every log that Caddy has.
func leakCaddyfile(clients []leakingClient) string {
	var b strings.Builder
	b.WriteString(`{
	debug
	admin {$ADMIN}
	auto_https off
	default_bind 127.0.0.1
	metrics {
		per_host
	}
	servers {
		trace
	}
	log {
		level DEBUG
	}
}
http://{$SITE} {
	log
`)
	for _, c := range clients {
		fmt.Fprintf(&b, `	handle_path /%s/* {
		upstream_oauth2 %[1]s {
			token_endpoint {$AS}/%s
			timeout 5s
			%s
		}
		reverse_proxy /dead {$DEAD}
		reverse_proxy {$API}
	}
`, c.name, url.PathEscape(c.mode), c.lines)
	}
	b.WriteString(`	handle_errors {
		respond "{err.status_code} {err.status_text} {err.message} {err.trace} {err.id} {http.error}"
	}
}
`)
	return b.String()
}

// echoes are the ways in which a server repeats what it was sent.
var echoes = map[string]func(w http.ResponseWriter, echo, token string){
	"issues": func(w http.ResponseWriter, echo, token string) {
		tokenType := "Bearer"
		if strings.Contains(echo, "Dpop=") {
			tokenType = "DPoP"
		}
		caddytest.Say(w, 200, fmt.Sprintf(`{"access_token":%q,"token_type":%q,"refresh_token":%[1]q,"expires_in":3600}`, token, tokenType))
	},
	"describes": func(w http.ResponseWriter, echo, token string) {
		caddytest.Say(w, 400, fmt.Sprintf(`{"error":"invalid_client","error_description":%q,"error_uri":%[1]q,"access_token":%q}`, echo, token))
	},
	"has a code": func(w http.ResponseWriter, echo, _ string) { caddytest.Say(w, 401, fmt.Sprintf(`{"error":%q}`, echo)) },
	"has an object": func(w http.ResponseWriter, echo, _ string) {
		caddytest.Say(w, 400, fmt.Sprintf(`{"error":{"message":%q,"code":%[1]q}}`, echo))
	},
	"is a form": func(w http.ResponseWriter, echo, _ string) {
		caddytest.Say(w, 400, "error=x&error_description="+url.QueryEscape(echo))
	},
	"is a page": func(w http.ResponseWriter, echo, _ string) { caddytest.Say(w, 200, "<html>"+echo) },
	"is down":   func(w http.ResponseWriter, echo, _ string) { caddytest.Say(w, 503, echo) },
	"has a type": func(w http.ResponseWriter, echo, token string) {
		caddytest.Say(w, 200, fmt.Sprintf(`{"access_token":%q,"token_type":%q}`, token, echo))
	},
	"has a member": func(w http.ResponseWriter, echo, token string) {
		caddytest.Say(w, 200, fmt.Sprintf(`{"access_token":[%q,%q]}`, token, echo))
	},
	"has a control": func(w http.ResponseWriter, echo, token string) {
		caddytest.Say(w, 200, fmt.Sprintf(`{"access_token":"%s\u0007"}`, token))
	},
	"redirects": func(w http.ResponseWriter, echo, _ string) {
		w.Header().Set("Location", "https://elsewhere.example/?"+url.QueryEscape(echo))
		w.WriteHeader(307)
	},
	"has a content type": func(w http.ResponseWriter, echo, _ string) {
		w.Header().Set("Content-Type", "text/"+url.QueryEscape(echo))
		_, _ = io.WriteString(w, "no JSON")
	},
	"is not HTTP": func(w http.ResponseWriter, echo, _ string) {
		sayRaw(w, "HTTP/9 "+strings.ReplaceAll(echo, "\n", " ")+"\r\n\r\n")
	},
	"has a malformed field": func(w http.ResponseWriter, echo, _ string) {
		sayRaw(w, "HTTP/1.1 200 OK\r\n"+strings.ReplaceAll(echo, "\n", " ")+"\r\n\r\n")
	},
	"has a malformed length": func(w http.ResponseWriter, echo, _ string) {
		sayRaw(w, "HTTP/1.1 200 OK\r\nContent-Length: "+strings.ReplaceAll(echo, "\n", " ")+"\r\n\r\n")
	},
	"has a malformed coding": func(w http.ResponseWriter, echo, _ string) {
		sayRaw(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: "+strings.ReplaceAll(echo, "\n", " ")+"\r\n\r\n")
	},
	"has a malformed chunk": func(w http.ResponseWriter, echo, _ string) {
		sayRaw(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.ReplaceAll(echo, "\n", " ")+"\r\n")
	},
	"has a status": func(w http.ResponseWriter, echo, _ string) {
		sayRaw(w, "HTTP/1.1 400 "+strings.ReplaceAll(echo, "\n", " ")+"\r\nContent-Length: 0\r\n\r\n")
	},
	"breaks off": func(http.ResponseWriter, string, string) { panic(http.ErrAbortHandler) },
}

// sayRaw answers with these bytes, whatever they are.
func sayRaw(w http.ResponseWriter, bytes string) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	_, _ = io.WriteString(connection, bytes)
}

// newEchoServer is the authorization server: the last part of the path is how it
// answers.
func newEchoServer(kept *secrets) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		id, secret, _ := r.BasicAuth()
		plain, _ := url.QueryUnescape(secret)
		var echo strings.Builder
		for _, values := range []map[string][]string{form, r.Header} {
			for name, list := range values {
				fmt.Fprintf(&echo, "%s=%s\n", name, strings.Join(list, " "))
			}
		}
		fmt.Fprintf(&echo, "%s %s %s %s", id, secret, plain, body)
		kept.sent(echo.String())
		kept.noteJWT("client_assertion", form.Get("client_assertion"))
		kept.noteJWT("assertion", form.Get("assertion"))
		kept.noteJWT("DPoP proof", r.Header.Get("DPoP"))
		echoes[strings.TrimPrefix(r.URL.Path, "/")](w, echo.String(), kept.plant("issued token"))
	})
}

// secrets are all values that must not show. Each is two halves, either of which
// is a leak by itself, with characters between them that are escaped in URLs.
type secrets struct {
	mu      sync.Mutex
	n       int
	pieces  map[string]string // what must not show, and what it is
	env     []string
	planted []string
	seen    strings.Builder // all that the servers were sent
	refused map[string]bool // tokens, by the API
	hangs   atomic.Int64
}

// hanging is how many requests wait at the API.
func (s *secrets) hanging() int { return int(s.hangs.Load()) }

// noteJWT adds what is in a JWT, and either half of its signature.
func (s *secrets) noteJWT(what, jwt string) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return
	}
	half := len(parts[2]) / 2
	s.note("the claims of a "+what, parts[1])
	s.note("the signature of a "+what, parts[2][:half])
	s.note("the signature of a "+what, parts[2][half:])
}

func newSecrets() *secrets {
	return &secrets{pieces: make(map[string]string), refused: make(map[string]bool)}
}

// plant makes a new secret.
func (s *secrets) plant(what string) string {
	s.mu.Lock()
	s.n++
	sum := sha256.Sum256(fmt.Append(nil, what, s.n))
	s.mu.Unlock()
	letters := hex.EncodeToString(sum[:])
	s.note(what, letters[:16])
	s.note(what, letters[16:32])
	return letters[:16] + "+/~" + letters[16:32]
}

// plantJWT makes a new secret that is a JWT.
func (s *secrets) plantJWT(what string) string {
	encode := base64.RawURLEncoding.EncodeToString
	jwt := encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(`{"sub":"`+what+`"}`)) + "." + encode([]byte(s.plant(what)))
	s.noteJWT(what, jwt)
	return jwt
}

// note adds something that must not show, in any encoding.
func (s *secrets) note(what, piece string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pieces[piece] = what
	for shift := range 3 { // as a part of something longer in base64
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + piece))
		inner := encoded[2*min(shift, 1)+max(shift-1, 0) : len(encoded)-4]
		s.pieces[inner] = what + " in base64"
	}
	s.pieces[hex.EncodeToString([]byte(piece))] = what + " in hex"
}

// placeholder plants a secret in an environment variable.
func (s *secrets) placeholder(what string) string {
	secret := s.plant(what)
	s.mu.Lock()
	defer s.mu.Unlock()
	name := fmt.Sprintf("HIDDEN_%d", len(s.env))
	s.env = append(s.env, name+"="+secret)
	s.planted = append(s.planted, secret)
	return "{env." + name + "}"
}

func (s *secrets) environment() []string { return s.env }

// callers returns the Authorization field of a client's callers.
func (s *secrets) callers(client string) string {
	sum := sha256.Sum256([]byte("caller of " + client))
	letters := hex.EncodeToString(sum[:])
	s.note("the token of a caller of "+client, letters[:16])
	s.note("the token of a caller of "+client, letters[16:32])
	return "Bearer " + letters[:16] + "+/~" + letters[16:32]
}

func (s *secrets) sent(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.WriteString(text)
}

// api is the API: what it does stands in the path. It repeats nothing, as what it
// says is for the callers.
func (s *secrets) api(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("Authorization") + r.URL.RawQuery
	// The proof for the API is not noted: like any field but Authorization, it is
	// in reverse_proxy's debug lines.
	_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is noticed
	s.mu.Lock()
	first := !s.refused[token]
	s.refused[token] = true
	s.mu.Unlock()
	switch {
	case r.URL.Path == "/rejects" || r.URL.Path == "/once" && first:
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/breaks":
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/hangs":
		s.hangs.Add(1)
		<-r.Context().Done()
	}
}

// checkSent fails the test unless each secret was put to use: one that no server
// has seen could not leak.
func (s *secrets) checkSent(t testing.TB) {
	t.Helper()
	seen := s.seen.String()
	unused := 0
	for _, secret := range s.planted {
		if !strings.Contains(seen, secret) && !strings.Contains(seen, url.QueryEscape(secret)) {
			unused++
		}
	}
	// The secrets of client_secret_jwt sign, and are never sent.
	if unused != len(echoes) {
		t.Errorf("%d secrets were never sent, want %d", unused, len(echoes))
	}
}

// check fails the test for each secret that a text shows.
func (s *secrets) check(t testing.TB, where, text string) {
	t.Helper()
	if text == "" {
		t.Errorf("there is nothing in %s", where)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	const window = 8
	byStart := make(map[string][]string)
	for piece := range s.pieces {
		byStart[piece[:window]] = append(byStart[piece[:window]], piece)
	}
	told := make(map[string]bool)
	for i := range len(text) - window {
		for _, piece := range byStart[text[i:i+window]] {
			if what := s.pieces[piece]; !told[what] && strings.HasPrefix(text[i:], piece) {
				told[what] = true
				t.Errorf("%s shows %s: … %s …", where, what, text[max(0, i-100):min(len(text), i+100)])
			}
		}
	}
}

// caddyProcess is the program, running.
type caddyProcess struct {
	t                  testing.TB
	home               string
	site, adminAddress string
	output             *lockedBuffer
	command            *exec.Cmd
	ended              chan error
}

// startCaddy builds the program and runs it with a Caddyfile, in a home of its
// own, until crash or the end of the test.
func startCaddy(t testing.TB, caddyfile string, variables map[string]string, env []string) *caddyProcess {
	t.Helper()
	c := &caddyProcess{t: t, home: t.TempDir(), site: caddytest.FreeAddress(t), adminAddress: caddytest.FreeAddress(t), output: new(lockedBuffer)}
	elsewhere := t.TempDir()
	program, config := filepath.Join(elsewhere, "caddy"), filepath.Join(elsewhere, "Caddyfile")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/caddy").CombinedOutput(); err != nil {
		t.Fatalf("the program does not build: %v\n%s", err, out)
	}
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}

	c.command = exec.Command(program, "run", "--config", config, "--adapter", "caddyfile")
	c.command.Env = append(slices.Clone(env),
		"HOME="+c.home, "XDG_CONFIG_HOME="+filepath.Join(c.home, "config"), "XDG_DATA_HOME="+filepath.Join(c.home, "data"),
		"GOTRACEBACK=all", "SITE="+c.site, "ADMIN="+c.adminAddress)
	for name, value := range variables {
		c.command.Env = append(c.command.Env, name+"="+value)
	}
	c.command.Stdout, c.command.Stderr = c.output, c.output
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.command.Wait() }()
	t.Cleanup(func() {
		_ = c.command.Process.Kill()
		<-ended
	})
	c.ended = ended
	caddytest.Eventually(t, "Caddy served its config", func() bool {
		return strings.Contains(c.output.String(), "serving initial configuration") || len(ended) > 0
	})
	if len(ended) > 0 {
		t.Fatalf("Caddy does not start: %s", c.output)
	}
	return c
}

// send sends a request to the site and returns all of the answer.
func (c *caddyProcess) send(method, path, authorization string) string {
	r, err := http.NewRequest(method, "http://"+c.site+path, strings.NewReader(map[string]string{"POST": "body"}[method]))
	if err != nil {
		return err.Error()
	}
	r.Header.Set("Authorization", authorization)
	answer, err := caddytest.Do(http.DefaultClient, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintln(answer.Status, answer.Header, answer.Body)
}

// admin returns what the admin API says.
func (c *caddyProcess) admin(path string) string {
	c.t.Helper()
	resp, err := http.Get("http://" + c.adminAddress + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("the admin API answers %s with %d, %v", path, resp.StatusCode, err)
	}
	return string(body)
}

// crash ends the program as a bug in the Go runtime would.
func (c *caddyProcess) crash() {
	c.t.Helper()
	if err := c.command.Process.Signal(syscall.SIGABRT); err != nil {
		c.t.Fatal(err)
	}
	c.ended <- <-c.ended // and leave it for the cleanup
}

// lockedBuffer is a buffer that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
