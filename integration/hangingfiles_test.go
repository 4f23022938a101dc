//go:build unix

package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// hangingFile puts a file in place that whoever reads it waits for, as on a dead
// network share, until the test is over.
func hangingFile(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path+".new", 0o600); err != nil {
		t.Skipf("no FIFO can be made here: %v", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // later readers find none, and the one that waits its end
		writer, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		if err == nil { // someone reads
			writer.Close()
		}
	})
}

// TestCredentialFileThatHangs: requests with a good token do not wait for it, those
// without one have what was read before, and a reload goes through.
func TestCredentialFileThatHangs(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	path := caddytest.SecretFile(t, "partner-secret")
	t.Setenv("FILE", path)
	site := keySiteWith("client_secret {file.{$FILE}}\ntimeout 1s")
	proxy := caddytest.Run(t, site)
	proxy.WantAs("alice", http.StatusOK)

	hangingFile(t, path)
	proxy.WantAs("alice", http.StatusOK)
	proxy.WantAs("bob", http.StatusOK)
	if problem, want := proxy.AwaitLog(logUsesBefore)["error"], "client_secret: cannot read the file: read "+path+": it took too long: check the file system it is on"; problem != want {
		t.Errorf("the log says %v, want %s", problem, want)
	}
	proxy.Reload(site)
	proxy.WantAs("alice", http.StatusOK)
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestStartWithAFileThatHangs: the config loads, each request fails in its time, and
// all is well once the file can be read.
func TestStartWithAFileThatHangs(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	path := filepath.Join(t.TempDir(), "secret")
	t.Setenv("FILE", path)
	hangingFile(t, path)
	site := keySiteWith("client_secret {file.{$FILE}}\ntimeout 300ms")

	// Run would wait with it.
	t.Setenv("SITE", caddytest.FreeAddress(t))
	validated := make(chan error, 1)
	go func() { validated <- caddytest.Validate(site) }()
	select {
	case err := <-validated:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(caddytest.Patience):
		t.Fatal("loading the config waits for the file")
	}

	proxy := caddytest.Run(t, site)
	proxy.AwaitLog("a credential cannot be read yet; it is tried again at each token request")
	if answer := proxy.GetAs("alice"); answer.Body != "502 no access token for the upstream: the request for one failed" {
		t.Errorf("the caller reads %s", answer.Body)
	}
	if n := auth.Count(); n != 0 {
		t.Errorf("%d token requests without a secret", n)
	}
}
