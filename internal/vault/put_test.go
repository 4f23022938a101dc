package vault

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

func TestLiveGrantIsReplacedOnlyOnRequest(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		held := c.rotate(t, c.signIn(t, "token 1").Record, "token 2")
		another := Record{RefreshToken: authserver.NewSecret("another")}
		if _, err := c.Put(t.Context(), partner, another, false); !errors.Is(err, ErrAlive) {
			t.Errorf("got %v, want ErrAlive", err)
		}
		wantToken(t, c.kept(t), 2, "token 2")

		replaced, err := c.Put(t.Context(), partner, another, true)
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, replaced, 3, "another")

		running := c.disk.caddy() // has token 2 in memory
		adopted, err := running.Update(t.Context(), partner, held.Record, unspent(t))
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, adopted, 3, "another")
	})
}

func TestPutWaitsForAnUpdate(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		go c.Update(t.Context(), partner, known.Record, slow(3*time.Second, issue("token 2")))
		synctest.Wait()
		held, err := c.Put(t.Context(), partner, Record{RefreshToken: authserver.NewSecret("another")}, true)
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, held, 3, "another")
	})
}

func TestPutThatCannotBeStored(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.disk.troubled(readOnly, time.Minute)
		if _, err := c.Put(t.Context(), partner, Record{RefreshToken: authserver.NewSecret("token 1")}, false); err == nil {
			t.Error("no error")
		}
	})
}

func TestDisconnectedGrantIsForgottenByAll(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		running := c.disk.caddy()
		if err := c.Disconnect(t.Context(), partner); err != nil {
			t.Fatal(err)
		}
		if n := len(c.disk.objects); n != 1 {
			t.Errorf("%d objects are left, want the mark alone", n)
		}
		if held := running.kept(t); held.SignIn == nil || !held.SignIn.Disconnected || !held.RefreshToken.IsZero() {
			t.Errorf("got %v, %v; want a mark", held, held.SignIn)
		}
		// What another process has in memory must not bring it back.
		_, err := running.Update(t.Context(), partner, known.Record, unspent(t))
		if dead, ok := errors.AsType[*SignInError](err); !ok || !dead.Disconnected {
			t.Errorf("got %v, want a SignInError", err)
		}

		held := c.signIn(t, "token 2")
		wantToken(t, held, 2, "token 2")
		wantToken(t, running.rotate(t, known.Record, "unused"), 2, "token 2")
	})
}

func TestConfiguredTokenStaysDeadAfterDisconnecting(t *testing.T) {
	for name, spent := range map[string]bool{"never spent": false, "spent": true} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				configured := Record{RefreshToken: authserver.NewSecret("configured")}
				grant := partner
				grant.Configured = Digest(configured.RefreshToken)
				if spent {
					if _, err := c.Update(t.Context(), grant, configured, issue("token 1")); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Disconnect(t.Context(), grant); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * markAfter)
				if err := c.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
				_, err := c.disk.caddy().Update(t.Context(), grant, configured, unspent(t))
				if _, dead := errors.AsType[*SignInError](err); !dead {
					t.Errorf("got %v, want a SignInError", err)
				}
			})
		})
	}
}

func TestDelete(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.rotate(t, c.signIn(t, "token 1").Record, "token 2")
		if err := c.Delete(t.Context(), partner); err != nil {
			t.Fatal(err)
		}
		if len(c.disk.objects) != 0 {
			t.Errorf("%d objects are left", len(c.disk.objects))
		}
		if _, err := c.Load(t.Context(), partner.Name); !errors.Is(err, ErrAbsent) {
			t.Errorf("got %v, want ErrAbsent", err)
		}
	})
}

func TestProbe(t *testing.T) {
	for _, row := range []struct {
		name  string
		vice  vice
		key   Key
		works bool
	}{
		{"all is well", noVice, oneKey, true},
		{"the key is missing", noVice, Key{}, false},
		{"the storage cannot be written", readOnly, oneKey, false},
		{"the storage loses what it is given", losing, oneKey, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				c.reload(func(config *Config) { config.Key = row.key })
				c.disk.troubled(row.vice, time.Minute)
				if err := c.Probe(t.Context()); (err == nil) != row.works {
					t.Errorf("got %v", err)
				}
				if len(c.disk.objects) != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}
