package vault

import (
	"fmt"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

func TestList(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		if entries, err := c.List(t.Context()); err != nil || len(entries) != 0 {
			t.Errorf("got %v, %v of an empty storage", entries, err)
		}
		put := func(account string) Grant {
			g := Grant{Name: NewName(account), Label: Label{Client: "partner", Account: account}, Timeout: time.Second}
			if _, err := c.Put(t.Context(), g, Record{RefreshToken: authserver.NewSecret(account), Scope: "read"}, false); err != nil {
				t.Fatal(err)
			}
			return g
		}
		put("well")
		dead, failing, gone := put("dead"), put("failing"), put("gone")
		load := func(g Grant) Record {
			held, err := c.Load(t.Context(), g.Name)
			if err != nil {
				t.Fatal(err)
			}
			return held.Record
		}
		_, _ = c.Update(t.Context(), dead, load(dead), fail(Rejected))
		_, _ = c.Update(t.Context(), failing, load(failing), fail(Failed))
		if err := c.Disconnect(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		c.disk.objects[indexRoot+"/.tmp123"] = []byte("a temporary file")

		entries, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, e := range entries {
			got[e.Label.Account] = fmt.Sprintf("%s dead=%t error=%q", e.Held.Scope, e.Held.SignIn != nil, e.LastError)
		}
		want := map[string]string{
			"well":    `read dead=false error=""`,
			"dead":    `read dead=true error="no token"`,
			"failing": `read dead=false error="no token"`,
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	})
}

func TestListWithAnotherKeyTellsWhy(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.signIn(t, "token 1")
		c.reload(func(config *Config) { config.Key = anotherKey })
		entries, err := c.List(t.Context())
		if err != nil || len(entries) != 1 || entries[0].Err == nil {
			t.Errorf("got %+v, %v", entries, err)
		}
	})
}

func TestSweep(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		held := c.rotate(t, c.signIn(t, "token 1").Record, "token 2")
		shared := Grant{Name: NewName("shared"), Timeout: time.Second}
		if _, err := c.Share(t.Context(), shared, Record{}, fetch("one", time.Minute)); err != nil {
			t.Fatal(err)
		}
		gone := Grant{Name: NewName("gone"), Timeout: time.Second}
		if _, err := c.Put(t.Context(), gone, Record{RefreshToken: authserver.NewSecret("gone")}, false); err != nil {
			t.Fatal(err)
		}
		if err := c.Disconnect(t.Context(), gone); err != nil {
			t.Fatal(err)
		}

		steps := []struct {
			after time.Duration
			left  map[string]bool
		}{
			{0, map[string]bool{"void intent": true, "shared token": true, "mark": true}},
			{2 * time.Minute, map[string]bool{"void intent": true, "mark": true}},
			{2 * voidAfter, map[string]bool{"mark": true}},
			{2 * markAfter, map[string]bool{}},
		}
		objects := map[string]string{
			"void intent":  partner.Name.key(intentObject),
			"shared token": shared.Name.key(sharedObject),
			"mark":         gone.Name.key(intentObject),
		}
		for _, step := range steps {
			time.Sleep(step.after)
			if err := c.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
			for what, key := range objects {
				if _, there := c.disk.objects[key]; there != step.left[what] {
					t.Errorf("after %s the %s is there: %t", step.after, what, there)
				}
			}
		}
		wantToken(t, c.rotate(t, held.Record, "token 3"), 3, "token 3")
	})
}

func TestSweepLeavesMarksAndLiveIntents(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		_, _ = c.Update(t.Context(), partner, known.Record, fail(Rejected))
		time.Sleep(2 * markAfter)
		if err := c.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if c.kept(t).SignIn == nil {
			t.Error("the mark of a dead grant was swept away")
		}
	})
}
