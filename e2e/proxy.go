package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// proxy is a Caddy with the plugin, as a process of its own.
type proxy struct {
	URL       string
	t         *testing.T
	port      int
	adminPort int
	api       *resource
	process   *process
}

// startProxy starts a Caddy that puts the client's tokens before the API. The lines are the directive's.
// When the test ends, its log at debug level, the access log included, and its config have been searched
// for every secret of the authorization server and every token that the API has seen.
func startProxy(t *testing.T, s *authServer, c client, api *resource, lines ...string) *proxy {
	t.Helper()
	p := &proxy{t: t, port: freePort(t), adminPort: freePort(t), api: api}
	p.URL = "http://" + loopback(p.port)
	home := t.TempDir()
	caddyfile := filepath.Join(home, "Caddyfile")
	if err := os.WriteFile(caddyfile, []byte(p.caddyfile(lines...)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(built("caddy"), "run", "--config", caddyfile)
	cmd.Env = append(os.Environ(), "CLIENT_SECRET="+c.Secret,
		"HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	p.process = startProcess(t, "caddy", cmd)
	t.Cleanup(func() {
		basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(c.ID) + ":" + url.QueryEscape(c.Secret)))
		p.searchForSecrets(slices.Concat(s.secrets(), api.seen(), []string{c.Secret, basic}))
	})
	eventually(t, "caddy answers", func() bool {
		if p.process.exited() {
			t.Fatal("caddy has exited")
		}
		return listening(p.port)
	})
	return p
}

func (p *proxy) caddyfile(lines ...string) string {
	return fmt.Sprintf(`{
	admin %s
	auto_https off
	persist_config off
	default_bind 127.0.0.1
	debug
}

%s {
	log
	upstream_oauth2 {
		%s
	}
	reverse_proxy %s {
		%s
	}
}
`, loopback(p.adminPort), p.URL, strings.Join(lines, "\n"), p.api.URL, p.api.block)
}

// reload loads a config with these lines of the directive, also when nothing has changed.
func (p *proxy) reload(lines ...string) {
	p.t.Helper()
	request, err := http.NewRequest(http.MethodPost, "http://"+loopback(p.adminPort)+"/load", strings.NewReader(p.caddyfile(lines...)))
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(answer.Body)
		p.t.Fatalf("reload: %s: %s", answer.Status, body)
	}
}

// logged reports whether a text stands in the log.
func (p *proxy) logged(text string) bool {
	p.t.Helper()
	output, err := os.ReadFile(p.process.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Contains(string(output), text)
}

func (p *proxy) searchForSecrets(secrets []string) {
	p.t.Helper()
	places := make(map[string]string)
	output, err := os.ReadFile(p.process.log)
	if err != nil {
		p.t.Error(err)
	}
	places["log"] = string(output)
	if answer, err := http.Get("http://" + loopback(p.adminPort) + "/config/"); err != nil {
		p.t.Error(err)
	} else {
		defer answer.Body.Close()
		config, err := io.ReadAll(answer.Body)
		if err != nil {
			p.t.Error(err)
		}
		places["config"] = string(config)
	}
	var spellings []string
	for _, secret := range secrets {
		spellings = append(spellings, secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)))
	}
	for place, text := range places {
		if text == "" {
			p.t.Errorf("caddy's %s is empty: nothing was searched", place)
		}
		for at := range occurrences(text, spellings) {
			p.t.Errorf("a secret stands in caddy's %s, after: …%s", place, text[max(0, at-300):at])
		}
	}
}

// occurrences yields where any of the words begins in the text. It goes through the text once: there may
// be thousands of words and megabytes of text.
func occurrences(text string, words []string) iter.Seq[int] {
	const head = 8
	byHead := make(map[string][]string)
	var short []string
	for _, word := range words {
		if len(word) < head {
			short = append(short, word)
		} else if known := byHead[word[:head]]; !slices.Contains(known, word) {
			byHead[word[:head]] = append(known, word)
		}
	}
	return func(yield func(int) bool) {
		for at := range len(text) {
			candidates := short
			if at+head <= len(text) {
				candidates = slices.Concat(short, byHead[text[at:at+head]])
			}
			if slices.ContainsFunc(candidates, func(word string) bool { return strings.HasPrefix(text[at:], word) }) && !yield(at) {
				return
			}
		}
	}
}
