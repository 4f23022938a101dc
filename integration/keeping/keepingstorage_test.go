package keeping

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// A grant in a storage that fails.

func TestStorageThatCannotBeWritten(t *testing.T) {
	auth, storage := newStrictServer(t, time.Hour, "configured"), newBrittleStorage(t, "one")
	caddytest.NewAPIServer(t)
	storage.fails(failing("store", ""))
	caddy := caddytest.Run(t, keptIn("one"))

	caddy.Want(http.StatusServiceUnavailable)
	auth.wantSpent(t) // nothing

	storage.fails(nil)
	caddytest.Eventually(t, "requests are served", func() bool { return caddy.Get("/", nil).Status == http.StatusOK })
	auth.wantSpent(t, "configured")
}

func TestStorageThatCannotBeRead(t *testing.T) {
	for name, trouble := range map[string]func(*testing.T) (trouble func(string, string) error, heal func()){
		"fails": func(*testing.T) (func(string, string) error, func()) { return failing("load", ""), func() {} },
		"hangs": func(t *testing.T) (func(string, string) error, func()) {
			healed := make(chan struct{})
			return func(string, string) error { <-healed; return nil }, func() { close(healed) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			auth, storage := newStrictServer(t, time.Hour, "configured"), newBrittleStorage(t, "one")
			caddytest.NewAPIServer(t)
			caddy := caddytest.Run(t, keptIn("one"))
			caddy.Want(http.StatusOK)
			fails, heal := trouble(t)
			storage.fails(fails)
			restart(t, caddy, keptIn("one"))

			caddy.Want(http.StatusServiceUnavailable)
			if answer := caddy.Send(http.MethodGet, os.Getenv("OTHER_SITE"), "/", nil); answer.Status != http.StatusOK {
				t.Errorf("another client's request is answered with %d", answer.Status)
			}

			storage.fails(nil)
			heal()
			caddytest.Eventually(t, "requests are served", func() bool { return caddy.Get("/", nil).Status == http.StatusOK })
			auth.wantSpent(t, "configured")
		})
	}
}

// spentInVain has the second generation spent for, and not stored. The token in use
// lives for a few seconds.
func spentInVain(t *testing.T, caddy *caddytest.Caddy, auth *strictServer, storage *brittleStorage) {
	t.Helper()
	caddy.Want(http.StatusOK)
	storage.fails(failing("store", "/b"))
	caddytest.Eventually(t, "the refresh token was spent", func() bool {
		caddy.Want(http.StatusOK)
		return len(auth.refreshTokens()) == 2
	})
	caddy.AwaitLog("the newest refresh token cannot be stored, and is in memory alone; it is stored again and again: check the storage before this process ends")
}

// TestStorageThatFailsAfterSpending: no request fails, the token that could not be
// stored is used in the end, and stored when that works again.
func TestStorageThatFailsAfterSpending(t *testing.T) {
	auth, storage, api := newStrictServer(t, 4*time.Second, "configured"), newBrittleStorage(t, "one"), caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keptIn("one"))
	spentInVain(t, caddy, auth, storage)
	first := api.Attempts()[0]
	caddytest.Eventually(t, "the token that could not be stored was used", func() bool {
		caddy.Want(http.StatusOK)
		return api.LastAuthorization(t) != "Bearer "+first
	})
	auth.wantSpent(t, "configured", "refresh-token-1")

	storage.fails(nil)
	caddy.AwaitLog("grant stored after all")
	restart(t, caddy, keptIn("one"))
	caddytest.Eventually(t, "the token was renewed", func() bool {
		caddy.Want(http.StatusOK)
		return len(auth.refreshTokens()) > 2
	})
	auth.wantChain(t, "configured")
}

// TestReloadWithAnotherStorage takes along what could not be stored.
func TestReloadWithAnotherStorage(t *testing.T) {
	auth, storage := newStrictServer(t, 4*time.Second, "configured"), newBrittleStorage(t, "one")
	another := newBrittleStorage(t, "two")
	caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keptIn("one"))
	spentInVain(t, caddy, auth, storage)

	caddy.Reload(keptIn("two"))

	caddytest.Eventually(t, "the other storage has the grant", func() bool { return another.has("/b") })
	restart(t, caddy, keptIn("two"))
	caddytest.Eventually(t, "the token was renewed", func() bool {
		caddy.Want(http.StatusOK)
		return len(auth.refreshTokens()) > 2
	})
	auth.wantChain(t, "configured")
}

// TestStopStoresWhatCouldNotBe: Caddy tries once more before it ends.
func TestStopStoresWhatCouldNotBe(t *testing.T) {
	auth, storage := newStrictServer(t, 4*time.Second, "configured"), newBrittleStorage(t, "one")
	caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keptIn("one"))
	spentInVain(t, caddy, auth, storage)
	storage.fails(nil)

	restart(t, caddy, keptIn("one"))

	if !storage.has("/b") {
		t.Errorf("there is %q", storage.keys())
	}
}

// TestRefusedConfigTouchesNoStorage: while a config is loaded that is refused in the
// end, grants go where they went.
func TestRefusedConfigTouchesNoStorage(t *testing.T) {
	auth, storage := newStrictServer(t, time.Hour, "configured"), newBrittleStorage(t, "one")
	another, api := newBrittleStorage(t, "two"), caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keptIn("one"))
	caddy.Want(http.StatusOK)
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+api.Attempts()[0] {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})

	whileRefused = func() {
		caddy.Want(http.StatusOK) // by another token
		auth.wantSpent(t, "configured", "refresh-token-1")
	}
	if err := caddy.TryReload(keptIn("two") + "\nhttp://127.0.0.1:1 {\n\troute {\n\t\tupstream_oauth2 partner\n\t\trefused\n\t}\n}"); err == nil {
		t.Fatal("the config was not refused")
	}

	if keys := another.keys(); len(keys) > 0 || !storage.has("/b") {
		t.Errorf("the refused config's storage has %q, the other one %q", keys, storage.keys())
	}
}
