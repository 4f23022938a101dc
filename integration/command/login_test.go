package command

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestLoginOnADesktop: one command, and one click.
func TestLoginOnADesktop(t *testing.T) {
	newSignInServer(t)
	s := surround(t, signInConfig)
	s.withBrowser()
	stdout, stderr := s.run(0, "login")
	if !strings.HasPrefix(stdout, "Signed in for partner. Scope granted: read. ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("the result is %q", stdout)
	}
	if !strings.Contains(stderr, "asked for and not granted: write") || strings.Contains(stderr+stdout, "refresh-") {
		t.Errorf("it says\n%s", stderr)
	}
	if got := s.states(); got != "partner/ connected" {
		t.Errorf("the list has %s", got)
	}
	page, _ := os.ReadFile(filepath.Join(filepath.Dir(s.config), "browser.page"))
	if !strings.Contains(string(page), "You can close this window.") {
		t.Errorf("the browser shows %q", page)
	}

	_, stderr = s.run(2, "login")
	if !strings.Contains(stderr, "--replace") {
		t.Errorf("a live grant: %s", stderr)
	}
	s.run(0, "login", "partner", "--replace")
}

// TestLoginOverSSH: the browser comes through a tunnel, or its address is pasted.
func TestLoginOverSSH(t *testing.T) {
	for name, comeBack := range map[string]func(*testing.T, *command, string){
		"through the tunnel": func(t *testing.T, _ *command, address string) {
			resp, err := http.Get(address)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		},
		"pasted": func(_ *testing.T, c *command, address string) {
			_, _ = c.stdin.Write([]byte("http://127.0.0.1/callback?code=x&state=forged\n"))
			c.until("state is of another sign-in")
			_, _ = c.stdin.Write([]byte(address + "\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := newSignInServer(t)
			server.devices = false
			s := surround(t, signInConfig)
			s.env = append(s.env, "SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22", "USER=ann", "DISPLAY=:0")
			c := s.start("login", "--json")
			address := c.until(anAddress)
			u, _ := url.Parse(address)
			back, _ := url.Parse(u.Query().Get("redirect_uri"))
			c.until("^ssh -N -L " + back.Port() + ":127.0.0.1:" + back.Port() + " ann@192.0.2.1$")
			comeBack(t, c, browse(t, address))
			stdout, _ := c.end(0)
			var result map[string]any
			if err := json.Unmarshal([]byte(stdout), &result); err != nil || result["client"] != "partner" || result["renewable"] != true || result["scope_granted"] != "read" {
				t.Errorf("the result is %s", stdout)
			}
		})
	}
}

// TestLoginWithADevice, as the command chooses itself where there is no browser.
func TestLoginWithADevice(t *testing.T) {
	newSignInServer(t)
	s := surround(t, signInConfig)
	c := s.start("login")
	c.until(`^http://127\.0\.0\.1:\d+/enter$`)
	c.until("WDJB-MJHT")
	c.end(0)
	if got := s.states(); got != "partner/ connected" {
		t.Errorf("the list has %s", got)
	}
}

// TestForgedCallback does not end the waiting.
func TestForgedCallback(t *testing.T) {
	newSignInServer(t)
	s := surround(t, signInConfig)
	c := s.start("login", "--no-browser")
	address := c.until(anAddress)
	back := browse(t, address)
	right, _ := url.Parse(back)
	for _, query := range []string{"code=x&state=forged", "code=x", "state=" + right.Query().Get("state"), right.RawQuery + "&iss=https://evil.example"} {
		forged := *right
		forged.RawQuery = query
		resp, err := http.Get(forged.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s is answered with %d", query, resp.StatusCode)
		}
	}
	resp, err := http.Get(back)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	c.end(0)
}

// TestLoginThatComesToNothing ends with 3.
func TestLoginThatComesToNothing(t *testing.T) {
	tests := []struct {
		name   string
		denies bool
		args   []string
		says   string
	}{
		{"denied in the browser", true, nil, "access_denied"},
		{"denied at the device", true, []string{"--device"}, "access_denied"},
		{"nobody comes", false, []string{"--no-browser", "--timeout", "1s"}, "nobody signed in within 1s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newSignInServer(t)
			server.denies = test.denies
			s := surround(t, signInConfig)
			s.withBrowser()
			_, stderr := s.run(3, append([]string{"login"}, test.args...)...)
			if !strings.Contains(stderr, test.says) {
				t.Errorf("it says\n%s", stderr)
			}
			if got := s.states(); got != "partner/ sign_in_needed" {
				t.Errorf("the list has %s", got)
			}
		})
	}
}

// TestLoginWithoutARefreshToken says what to add.
func TestLoginWithoutARefreshToken(t *testing.T) {
	server := newSignInServer(t)
	server.noMore = true
	s := surround(t, signInConfig)
	s.withBrowser()
	_, stderr := s.run(0, "login")
	for _, hint := range []string{"offline_access", "authorization_param access_type offline", "authorization_param prompt consent"} {
		if !strings.Contains(stderr, hint) {
			t.Errorf("it does not say %q:\n%s", hint, stderr)
		}
	}
}

// TestImportCommand takes the refresh token of another tool.
func TestImportCommand(t *testing.T) {
	newSignInServer(t)
	s := surround(t, signInConfig)
	file := filepath.Join(filepath.Dir(s.config), "token")
	if err := os.WriteFile(file, []byte("mistyped\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(1, "login", "--refresh-token-file", file)
	if got := s.states(); got != "partner/ sign_in_needed" {
		t.Errorf("the list has %s", got)
	}
	if err := os.WriteFile(file, []byte("good\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(0, "login", "--refresh-token-file", file)
	if got := s.states(); got != "partner/ connected" {
		t.Errorf("the list has %s", got)
	}
	s.run(2, "login", "--refresh-token-file", file)
	s.run(2, "login", "--refresh-token-file", file+".none")
}

// TestLogout revokes, and forgets.
func TestLogout(t *testing.T) {
	server := newSignInServer(t)
	s := surround(t, signInConfig)
	s.run(1, "logout")
	s.run(0, "login", "--device")
	stdout, _ := s.run(0, "logout", "partner")
	if stdout != "The grant of partner is revoked and forgotten.\n" {
		t.Errorf("the result is %q", stdout)
	}
	seen := server.Seen()
	if last := seen[len(seen)-1]; last.URL.Path != "/revoke" || !strings.HasPrefix(last.PostForm.Get("token"), "refresh-") {
		t.Errorf("the last request is %s %v", last.URL, last.PostForm)
	}
	if got := s.states(); got != "partner/ sign_in_needed" {
		t.Errorf("the list has %s", got)
	}
}

// TestAccountsAndHandlers: clients of handlers are found, and each account has its own.
func TestAccountsAndHandlers(t *testing.T) {
	newSignInServer(t)
	s := surround(t, `
{
	storage file_system {$GRANTS}
	upstream_oauth2 {
		encryption_key {env.KEY}
	}
}
http://127.0.0.1:1 {
	handle /api/* {
		upstream_oauth2 team {
			issuer {$ISSUER}
			client_id partner-id
			client_secret {env.PARTNER_SECRET}
			grant authorization_code
			account {http.auth.user.id}
		}
	}
}
`)
	s.run(2, "login", "--device")
	s.run(0, "login", "--device", "--account", "ann")
	s.run(0, "login", "team", "--device", "--account", "bob")
	if got := s.states(); got != "team/ann connected, team/bob connected" {
		t.Errorf("the list has %s", got)
	}
	s.run(0, "logout", "--account", "ann")
	if got := s.states(); got != "team/bob connected" {
		t.Errorf("the list has %s", got)
	}
}

// TestWrongUse ends with 2, before anybody is asked.
func TestWrongUse(t *testing.T) {
	newSignInServer(t)
	s := surround(t, signInConfig)
	for _, args := range [][]string{
		{"login", "stranger"},
		{"login", "partner", "another"},
		{"login", "--account", "ann"},
		{"login", "--nonsense"},
		{"login", "--device", "--paste"},
		{"login", "--timeout", "0s"},
		{"login", "--no-browser", "--listen", "192.0.2.1:8400"},
		{"login", "--envfile", s.config + ".none"},
		{"login", "--adapter", "none"},
		{"list", "partner"},
	} {
		_, stderr := s.run(2, args...)
		if !strings.Contains(stderr, "error: ") || strings.Contains(stderr, "/authorize") {
			t.Errorf("%v: it says\n%s", args, stderr)
		}
	}
}

// TestStorageThatCannotKeep ends with 4, before anybody is asked.
func TestStorageThatCannotKeep(t *testing.T) {
	newSignInServer(t)
	t.Run("not writable", func(t *testing.T) {
		s := surround(t, signInConfig)
		if err := os.RemoveAll(s.storage); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.storage, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, stderr := s.run(4, "login", "--no-browser"); strings.Contains(stderr, "/authorize") {
			t.Errorf("it says\n%s", stderr)
		}
	})
	t.Run("another key", func(t *testing.T) {
		s := surround(t, signInConfig)
		s.run(0, "login", "--device")
		s.env = append(s.env, "KEY="+otherCommandKey)
		if _, stderr := s.run(4, "login", "--no-browser"); strings.Contains(stderr, "/authorize") || !strings.Contains(stderr, "previous_encryption_key") {
			t.Errorf("it says\n%s", stderr)
		}
	})
	t.Run("a folder of another user", func(t *testing.T) {
		s := surround(t, signInConfig)
		if err := os.Chown(s.storage, 54321, 54321); err != nil {
			t.Skip("only root can give a folder away")
		}
		if _, stderr := s.run(2, "login", "--no-browser"); !strings.Contains(stderr, "sudo -u '#54321' ") {
			t.Errorf("it says\n%s", stderr)
		}
	})
}

// TestRunningCaddyTakesItUp, without a reload: what is signed in for.
func TestRunningCaddyTakesItUp(t *testing.T) {
	newSignInServer(t)
	caddytest.NewAPIServer(t)
	s := surround(t, signInConfig)
	t.Setenv("GRANTS", s.storage)
	t.Setenv("KEY", commandKey)
	t.Setenv("PARTNER_SECRET", "partner-secret")
	c := caddytest.Run(t, `
{
	upstream_oauth2 {
		storage file_system {$GRANTS}
		encryption_key {env.KEY}
		client partner {
			issuer {$ISSUER}
			client_id partner-id
			client_secret {env.PARTNER_SECRET}
			grant authorization_code
			scope read write
		}
	}
}
http://{$SITE} {
	upstream_oauth2 partner
	reverse_proxy {$API}
}
`)
	c.Want(http.StatusServiceUnavailable)
	s.run(0, "login", "--device")
	caddytest.Eventually(t, "a request gets through", func() bool { return c.Get("/", nil).Status == http.StatusOK })
}
