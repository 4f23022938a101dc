package vault

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// A key that does not fit changes nothing, whatever is tried with it.
func TestWrongKeyOverwritesNothing(t *testing.T) {
	for _, row := range []struct {
		name     string
		key      Key
		mentions []string
	}{
		{"missing", Key{}, []string{"encryption_key is missing", oneKey.ID()}},
		{"wrong", anotherKey, []string{"encryption_key", "previous_encryption_key", oneKey.ID(), anotherKey.ID()}},
	} {
		t.Run(row.name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				known := c.signIn(t, "token 1")
				known = c.rotate(t, known.Record, "token 2")
				before := c.disk.snapshotOf()

				c.reload(func(config *Config) { config.Key = row.key })
				_, loaded := c.Load(t.Context(), partner.Name)
				_, updated := c.Update(t.Context(), partner, known.Record, unspent(t))
				_, began := c.Update(t.Context(), partner, Record{RefreshToken: authserver.NewSecret("configured")}, unspent(t))
				_, put := c.Put(t.Context(), partner, Record{RefreshToken: authserver.NewSecret("token 9")}, true)
				disconnected := c.Disconnect(t.Context(), partner)
				for _, err := range []error{loaded, updated, began, put, disconnected} {
					if _, wrong := errors.AsType[*KeyError](err); !wrong {
						t.Fatalf("got %v, want a KeyError", err)
					}
					for _, mention := range row.mentions {
						if !strings.Contains(err.Error(), mention) {
							t.Errorf("%q does not mention %s", err, mention)
						}
					}
				}
				if err := c.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
				if !maps.EqualFunc(before, c.disk.snapshotOf(), func(a, b []byte) bool { return string(a) == string(b) }) {
					t.Error("something was overwritten")
				}
				if c.saw(KeyProblem) == 0 {
					t.Error("nothing was told about the key")
				}

				c.reload(func(config *Config) { config.Key = oneKey })
				wantToken(t, c.rotate(t, known.Record, "token 3"), 3, "token 3")
			})
		})
	}
}

func TestNothingIsSpentForWhatCannotBeSealed(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.reload(func(config *Config) { config.Key = Key{} })
		_, err := c.Update(t.Context(), partner, Record{RefreshToken: authserver.NewSecret("configured")}, unspent(t))
		if _, missing := errors.AsType[*KeyError](err); !missing {
			t.Errorf("got %v, want a KeyError", err)
		}
	})
}

func TestChangedKey(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		known = c.rotate(t, known.Record, "token 2")
		c.reload(func(config *Config) { config.Key, config.PreviousKey = anotherKey, oneKey })
		if entries, err := c.List(t.Context()); err != nil || !entries[0].OldKey {
			t.Errorf("the list does not say that the previous key is needed: %+v, %v", entries, err)
		}
		known = c.rotate(t, known.Record, "token 3")
		if entries, err := c.List(t.Context()); err != nil || entries[0].OldKey {
			t.Errorf("one update later the previous key is still needed: %+v, %v", entries, err)
		}

		c.reload(func(config *Config) { config.PreviousKey = Key{} })
		wantToken(t, c.kept(t), 3, "token 3")
		wantToken(t, c.rotate(t, known.Record, "token 4"), 4, "token 4")
	})
}

func TestUnknownVersionIsLeftAlone(t *testing.T) {
	for _, object := range []string{slotA, slotB, intentObject, indexObject} {
		t.Run(object, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				configured := Record{RefreshToken: authserver.NewSecret("configured")}
				c.disk.objects[partner.Name.key(object)] = []byte(`{"v":2,"of":"the future"}`)
				before := c.disk.snapshotOf()
				_, err := c.Update(t.Context(), partner, configured, unspent(t))
				if unknown, ok := errors.AsType[*VersionError](err); !ok || unknown.Version != 2 {
					t.Errorf("got %v, want a VersionError", err)
				}
				if after := c.disk.snapshotOf(); len(after) != len(before) || string(after[partner.Name.key(object)]) != string(before[partner.Name.key(object)]) {
					t.Error("something was overwritten")
				}
			})
		})
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	record := Record{
		Generation: 7, RefreshToken: authserver.NewSecret("hush"), AccessToken: authserver.NewSecret("hush"),
		Answer: map[string]string{"id_token": "hush"},
	}
	key, _ := ParseKey(hex.EncodeToString([]byte(strings.Repeat("hush", 8))))
	for _, value := range []any{record, &record, Held{Record: record}, key, Config{Key: key}, []any{record, key}} {
		text, _ := json.Marshal(value)
		for _, printed := range []string{fmt.Sprintf("%v %+v %#v %s %q", value, value, value, value, value), string(text)} {
			if strings.Contains(printed, "hush") || strings.Contains(printed, hex.EncodeToString([]byte("hush"))) || strings.Contains(printed, fmt.Sprint([]byte("hush")[0], []byte("hush")[1])) {
				t.Errorf("%T prints as %s", value, printed)
			}
		}
	}
}
