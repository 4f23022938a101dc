package upstreamoauth2

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// grants keep what somebody consented to, for all configs of this process. What is
// known of a grant outlives reloads; the storage and the keys are those of the config
// that started last.
var grants = newKeeper()

// keeper has the vaults.
type keeper struct {
	sealed *vault.Vault // in the storage
	memory *vault.Vault // of clients without an encryption_key, until the process ends

	mu    sync.Mutex
	swept time.Time
}

func newKeeper() *keeper {
	k, inMemory := new(keeper), vault.InMemory()
	k.sealed = vault.New(func() vault.Config { return loaded.inForce().keeping() })
	k.memory = vault.New(func() vault.Config {
		c := inMemory
		c.Observe = loaded.inForce().reportGrant
		return c
	})
	return k
}

// provisionKeeping loads the storage and reads the keys. It asks the storage for
// nothing.
func (a *App) provisionKeeping(ctx caddy.Context) error {
	a.storage = ctx.Storage()
	if a.StorageRaw != nil {
		module, err := ctx.LoadModule(a, "StorageRaw")
		if err != nil {
			return fmt.Errorf("storage: %w", err)
		}
		if a.storage, err = module.(caddy.StorageConverter).CertMagicStorage(); err != nil {
			return fmt.Errorf("storage: %w", err)
		}
	}
	if a.EncryptionKey == "" && a.PreviousEncryptionKey != "" {
		return errors.New("previous_encryption_key is for the time while the key is being changed: write the new one as 'encryption_key'")
	}
	a.keys = new(keys)
	if err := a.keys.read(a); err != nil {
		if !config.Temporary(err) {
			return err
		}
		a.logs.logger.Warn("a credential cannot be read yet; it is tried again at each token request", zap.Error(err))
	}
	for option, written := range map[string]config.Credential{"encryption_key": a.EncryptionKey, "previous_encryption_key": a.PreviousEncryptionKey} {
		if written.IsLiteral() {
			a.logs.logger.Warn("a credential stands in the config, where the admin API and its autosave show it: write {env.NAME} or {file./absolute/path} instead", zap.Strings("options", []string{option}))
		}
	}
	loaded.add(a)
	return nil
}

const (
	keyTime  = time.Second     // how long a key's file may take
	keyEvery = 5 * time.Second // how often one is looked for that cannot be read
)

// keys are the app's encryption keys, as far as they could be read.
type keys struct {
	mu               sync.Mutex
	newest, previous vault.Key
	tried            time.Time // when the files were last looked at
}

// read reads those that have not been read, every few seconds.
func (k *keys) read(a *App) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.tried) < keyEvery {
		return nil
	}
	k.tried = time.Now()
	if k.newest.IsZero() {
		k.newest, err = keyOf("encryption_key", a.EncryptionKey)
	}
	if k.previous.IsZero() && err == nil {
		k.previous, err = keyOf("previous_encryption_key", a.PreviousEncryptionKey)
	}
	return err
}

// lastKeys are what was last read of each key, by what the config says.
var lastKeys sync.Map

// keyOf reads a key. While its file cannot be read, that is what was last read of it.
func keyOf(option string, written config.Credential) (vault.Key, error) {
	key, err := readKey(option, written)
	if err == nil {
		lastKeys.Store(written, key)
		return key, nil
	}
	if before, ok := lastKeys.Load(written); ok && config.Temporary(err) {
		return before.(vault.Key), nil
	}
	return key, err
}

func readKey(option string, written config.Credential) (vault.Key, error) {
	if written == "" {
		return vault.Key{}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTime)
	defer cancel()
	text, err := config.ReadCredential(ctx, option, written)
	if err != nil {
		return vault.Key{}, err
	}
	key, err := vault.ParseKey(text.Reveal())
	if err != nil {
		return key, fmt.Errorf("%s: %w", option, err)
	}
	return key, nil
}

// keeping is what a vault works with. A key that could not be read is tried again.
func (a *App) keeping() vault.Config {
	if a == nil {
		return vault.Config{}
	}
	_ = a.keys.read(a)
	a.keys.mu.Lock()
	defer a.keys.mu.Unlock()
	return vault.Config{Storage: a.storage, Key: a.keys.newest, PreviousKey: a.keys.previous, Observe: func(o vault.Outcome) {
		countOperation(o)
		a.reportGrant(o)
	}}
}

// grantsOf says where a client's grant or shared token is kept.
func (a *App) grantsOf(c *client) (tokensource.Grants, error) {
	d := &c.definition
	keyed := a.EncryptionKey != ""
	switch {
	case !d.KeepsGrant() && !d.Share:
		return tokensource.Grants{}, nil
	case !keyed && d.NeedsSignIn():
		return tokensource.Grants{}, needsKey("grant", "authorization_code keeps what somebody consented to")
	case !keyed && d.Share:
		return tokensource.Grants{}, needsKey("share", "it keeps access tokens in the storage")
	case keyed && d.DPoP != nil && d.DPoP.Key == "":
		return tokensource.Grants{}, config.OptionErrorf("dpop", "what is kept outlives this process, and a key pair that is made here does not: write 'dpop <key file>'")
	case !keyed:
		c.logger.Warn("a refresh token that the server rotates is lost when this process ends: write 'encryption_key' under the global option upstream_oauth2, to have it kept in the storage (a key comes from 'openssl rand -base64 32')")
		return tokensource.Grants{Vault: grants.memory, Other: grants.sealed}, nil
	}
	return tokensource.Grants{Vault: grants.sealed, Other: grants.memory}, nil
}

func needsKey(option, why string) error {
	return config.OptionErrorf(option, "%s, which is sealed: write 'encryption_key {env.UPSTREAM_OAUTH2_KEY}' under the global option upstream_oauth2 (a key comes from 'openssl rand -base64 32')", why)
}

// settleGrants waits for refreshes in flight, as long as they may take, and stores once
// more what could not be stored. Once Caddy exits, nothing more is spent.
func (a *App) settleGrants() error {
	longest := time.Duration(0)
	for _, c := range a.live {
		longest = max(longest, c.definition.RequestTimeout())
	}
	ctx, cancel := context.WithTimeout(context.Background(), vault.Grant{Timeout: longest}.Bound())
	defer cancel()
	if caddy.Exiting() {
		return grants.sealed.Stop(ctx)
	}
	return grants.sealed.Flush(ctx)
}

const (
	maintainEvery = 30 * time.Second
	sweepEvery    = time.Hour
)

// maintain refreshes grants that nobody uses, and deletes what has had its time,
// until the config is replaced.
func (a *App) maintain() {
	ticker := time.NewTicker(maintainEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, c := range a.live {
				if every := c.definition.RefreshesAtLeast(); c.definition.KeepsGrant() && every > 0 {
					c.shared.cache.KeepAlive(every)
				}
			}
			if a.EncryptionKey != "" && grants.timeToSweep() {
				_ = grants.sealed.Sweep(a.ctx)
			}
		case <-a.ctx.Done():
			return
		}
	}
}

// timeToSweep reports whether an hour has passed since the last sweep, whichever config
// made it.
func (k *keeper) timeToSweep() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.swept) < sweepEvery {
		return false
	}
	k.swept = time.Now()
	return true
}
