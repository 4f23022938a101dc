package terminal_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/terminal"
)

// TestSurroundings: where the person sits, and whether a browser there can be opened.
func TestSurroundings(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the variables are those of Linux")
	}
	tests := []struct {
		name, display, browser, ssh string
		has                         bool
		forward                     string
	}{
		{name: "a container"},
		{name: "a desktop", display: ":0", has: true},
		{name: "a browser that is named", browser: "w3m", has: true},
		{name: "another machine", ssh: "192.0.2.7 50000 192.0.2.1 22", forward: "ssh -N -L 8400:127.0.0.1:8400 ann@192.0.2.1"},
		{name: "another machine, with a display of its own", display: ":0", ssh: "192.0.2.7 50000 192.0.2.1 2222", forward: "ssh -N -L 8400:127.0.0.1:8400 -p 2222 ann@192.0.2.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range map[string]string{
				"DISPLAY": test.display, "BROWSER": test.browser, "SSH_CONNECTION": test.ssh,
				"WAYLAND_DISPLAY": "", "WSL_DISTRO_NAME": "", "USER": "ann",
			} {
				t.Setenv(name, value)
			}
			if got := terminal.HasBrowser(); got != test.has {
				t.Errorf("there is a browser: %v", got)
			}
			if got := terminal.SSHForward("8400"); got != test.forward {
				t.Errorf("the tunnel is %q", got)
			}
		})
	}
}

// TestOpen: the address is one word, wherever the variable has it.
func TestOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no shell")
	}
	const address = "https://auth.example/authorize?a=1&b=$HOME;c"
	for name, arguments := range map[string]string{"at the end": "", "in its place": " %s --new-window"} {
		t.Run(name, func(t *testing.T) {
			script, out := filepath.Join(t.TempDir(), "browser"), filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(script, []byte("#!/bin/sh\nprintf %s \"$1\" >"+out+".new\nmv "+out+".new "+out+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("BROWSER", "/nowhere/browser:"+script+arguments)
			if err := terminal.Open(address); err != nil {
				t.Fatal(err)
			}
			for range 1000 {
				if got, err := os.ReadFile(out); err == nil {
					if string(got) != address {
						t.Errorf("the browser is given %q", got)
					}
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Error("the browser is never run")
		})
	}
}

// TestText: a server cannot steer the terminal.
func TestText(t *testing.T) {
	if got := terminal.Text("read \x1b]0;title\x07\u202ewrite\n"); got != "read ]0;titlewrite" {
		t.Errorf("it writes %q", got)
	}
}

// TestAsUser: the line can be pasted into a shell.
func TestAsUser(t *testing.T) {
	args := os.Args
	defer func() { os.Args = args }()
	os.Args = []string{"caddy", "login", "--account", "ann o'neill"}
	if got, want := terminal.AsUser("#5"), `sudo -u '#5' caddy login --account 'ann o'\''neill'`; got != want {
		t.Errorf("the line is %s, want %s", got, want)
	}
}
