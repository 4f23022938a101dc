package vault

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// fetch is a server that gives out this access token.
func fetch(token string, life time.Duration) func(context.Context) (Record, error) {
	return func(context.Context) (Record, error) {
		return Record{AccessToken: authserver.NewSecret(token), ObtainedAt: time.Now(), ExpiresAt: time.Now().Add(life)}, nil
	}
}

func TestSharedAccessToken(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		share := func(c *caddy, known Record, offered string) Held {
			t.Helper()
			held, err := c.Share(t.Context(), partner, known, fetch(offered, time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			return held
		}
		want := func(held Held, token string) {
			t.Helper()
			if got := held.AccessToken.Reveal(); got != token {
				t.Errorf("got %s, want %s", got, token)
			}
		}
		other := c.disk.caddy()
		want(share(c, Record{}, "one"), "one")
		first := share(other, Record{}, "unused")
		want(first, "one")

		want(share(c, first.Record, "two"), "two") // it was rejected, say
		want(share(other, first.Record, "unused"), "two")

		time.Sleep(2 * time.Minute)
		want(share(other, Record{}, "three"), "three")

		if err := c.Unshare(t.Context(), partner.Name); err != nil {
			t.Error(err)
		}
		want(share(other, Record{}, "four"), "four")
	})
}

func TestSharingTakesOneRequest(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.disk.latency = 40 * time.Millisecond
		requests := 0
		done := make(chan error)
		for range 3 {
			go func() {
				_, err := c.disk.caddy().Share(t.Context(), partner, Record{}, func(ctx context.Context) (Record, error) {
					requests++
					time.Sleep(time.Second)
					return fetch("one", time.Minute)(ctx)
				})
				done <- err
			}()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if requests != 1 {
			t.Errorf("%d token requests, want 1", requests)
		}
	})
}

func TestSharingWithoutStorage(t *testing.T) {
	for name, wrong := range map[string]vice{"refuses": refusing, "cannot be written": readOnly, "hides": hidingAll, "loses": losing} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				c.disk.troubled(wrong, time.Minute)
				held, err := c.Share(t.Context(), partner, Record{}, fetch("one", time.Hour))
				if err != nil || held.AccessToken.Reveal() != "one" || !held.Unstored {
					t.Errorf("got %v, %v", held, err)
				}
			})
		})
	}
}

func TestSharingWithTheWrongKey(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		if _, err := c.Share(t.Context(), partner, Record{}, fetch("one", time.Hour)); err != nil {
			t.Fatal(err)
		}
		c.reload(func(config *Config) { config.Key = anotherKey })
		_, err := c.Share(t.Context(), partner, Record{}, fetch("two", time.Hour))
		if _, wrong := errors.AsType[*KeyError](err); !wrong {
			t.Errorf("got %v, want a KeyError", err)
		}
	})
}

// TestLastSecondIsNotShared: what a token cache would not use is not adopted.
func TestLastSecondIsNotShared(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		if _, err := c.Share(t.Context(), partner, Record{}, fetch("one", time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59*time.Second + 500*time.Millisecond)

		held, err := c.disk.caddy().Share(t.Context(), partner, Record{}, fetch("two", time.Minute))

		if err != nil || held.AccessToken.Reveal() != "two" {
			t.Errorf("got %q, %v", held.AccessToken.Reveal(), err)
		}
	})
}
