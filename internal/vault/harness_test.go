package vault

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// partner is the grant that most tests are about.
var partner = Grant{
	Name:    NewName("authorization_code", "https://auth.example", "client"),
	Label:   Label{Client: "partner", Account: "alice"},
	Timeout: 10 * time.Second,
}

// caddy is one process with a vault, on a disk that it may share with others.
type caddy struct {
	*Vault
	disk    *disk
	storage *handle

	mu       sync.Mutex
	config   Config
	outcomes []Outcome
}

func (d *disk) caddy() *caddy {
	c := &caddy{disk: d, storage: d.connect(newRandom(1, 1))}
	c.config = Config{Storage: c.storage, Key: oneKey, Observe: c.note}
	c.Vault = New(func() Config {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.config
	})
	return c
}

// reload changes the config.
func (c *caddy) reload(change func(*Config)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.config)
}

func (c *caddy) note(o Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcomes = append(c.outcomes, o)
}

// saw counts the events of a kind.
func (c *caddy) saw(event Event) int { return len(c.events(event)) }

func (c *caddy) events(event Event) []Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.outcomes), func(o Outcome) bool { return o.Event != event })
}

// operations returns what the storage was asked for since they were asked for last.
func (c *caddy) operations() []string {
	var all []string
	for _, o := range c.events(Operated) {
		all = append(all, o.Operation)
	}
	c.mu.Lock()
	c.outcomes = nil
	c.mu.Unlock()
	return all
}

// signIn puts a grant with that refresh token.
func (c *caddy) signIn(t *testing.T, token string) Held {
	t.Helper()
	held, err := c.Put(t.Context(), partner, Record{RefreshToken: authserver.NewSecret(token)}, false)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// rotate updates the grant, which has to work.
func (c *caddy) rotate(t *testing.T, known Record, token string) Held {
	t.Helper()
	held, err := c.Update(t.Context(), partner, known, issue(token))
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// kept loads the grant, which has to be there.
func (c *caddy) kept(t *testing.T) Held {
	t.Helper()
	held, err := c.Load(t.Context(), partner.Name)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// wantToken fails unless the grant is that generation with that refresh token.
func wantToken(t *testing.T, held Held, generation uint64, token string) {
	t.Helper()
	if held.Generation != generation || held.RefreshToken.Reveal() != token {
		t.Errorf("got generation %d with %q, want %d with %q", held.Generation, held.RefreshToken.Reveal(), generation, token)
	}
}

// issue is a server that takes any refresh token and issues this one.
func issue(token string) Spend {
	return func(_ context.Context, held Record) (Record, error) {
		held.RefreshToken = authserver.NewSecret(token)
		held.AccessToken = authserver.NewSecret("access " + token)
		held.ExpiresAt = time.Now().Add(time.Hour)
		return held, nil
	}
}

// fail is a server that fails.
func fail(verdict Verdict) Spend {
	return func(context.Context, Record) (Record, error) {
		return Record{}, &SpendError{verdict, errors.New("no token")}
	}
}

// inTurn answers each time as the next one does.
func inTurn(spends ...Spend) Spend {
	return func(ctx context.Context, held Record) (Record, error) {
		next := spends[0]
		spends = spends[1:]
		return next(ctx, held)
	}
}

// unspent fails the test if it is called.
func unspent(t *testing.T) Spend {
	return func(context.Context, Record) (Record, error) {
		t.Error("the refresh token was spent")
		return Record{}, errors.New("spent")
	}
}

// slow takes its time before it does the same.
func slow(d time.Duration, spend Spend) Spend {
	return func(ctx context.Context, held Record) (Record, error) {
		time.Sleep(d)
		return spend(ctx, held)
	}
}
