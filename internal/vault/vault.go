// Package vault keeps grants: what somebody consented to once, as a refresh token
// and what has come of it. It keeps them sealed, in whatever certmagic.Storage a
// Caddy has, so that no restart, crash or second instance costs a grant that can
// be saved. It knows neither OAuth nor HTTP: how a refresh token is spent is the
// business of a function that Update calls.
//
// # The protocol
//
// Only Load and Store of a storage are believed; its locks keep the herd away and
// prove nothing. A grant has two slots and an intent, each sealed whole. The newest
// slot that opens is the grant, and the next generation overwrites the older one,
// so a torn or lost write leaves its predecessor. To get from generation n to the
// next, a process
//
//  1. is the only one in its process to do so,
//  2. takes the lock, or does without it after 5 s,
//  3. reads slots and intent, and adopts a generation newer than the one it knows;
//     where its own memory has the newest, it stores that first,
//  4. waits out the intent of another process, for one timeout since it first saw
//     it, stores an intent of its own, and reads everything again: is it still n,
//     and still its intent? Where the refresh token may have been spent before, or
//     there is no lock, the intent stands for 2 s first,
//  5. spends the refresh token, once more within a second if no answer came,
//  6. stores generation n+1 and reads it back; only then it is used.
//
// A rejected refresh token is believed after a second look, as another process may
// have spent it and not stored yet. Then the intent becomes a mark that somebody
// has to sign in; nothing is deleted. What could not be stored after it was spent
// lives in memory and is stored again every second, and once more by Flush.
//
// # What cannot be saved
//
// A server that takes a refresh token back when it answers, with no grace for a
// second use, leaves nothing if the process is killed, or the answer lost, between
// its answer and our store. Neither is there help against two processes that both
// hold "the" lock and pass step 4 in the same instant, nor against a storage that
// answers from a cache.
package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	lockWait    = 5 * time.Second // for the lock of a grant
	storageTime = 5 * time.Second // for one storage operation
	storingTime = 5 * time.Second // left for storing what was spent
	readingTime = 5 * time.Second // beside lock and storing: for everything read and written before
)

// Config is what a vault works with. It belongs to the newest config of Caddy that
// is loaded, and is asked for again at every step.
type Config struct {
	Storage certmagic.Storage

	// Key seals and opens. The zero Key is a missing one.
	Key Key

	// PreviousKey only opens: what it opens is sealed with Key when it is
	// written next. The zero Key is none.
	PreviousKey Key

	// Alone says that no other process uses the storage: there is nobody to wait for.
	Alone bool

	// Observe is told what happens, if it is not nil. It must not block, nor call
	// the vault.
	Observe func(Outcome)
}

// Vault keeps grants. One lives as long as the process, through all reloads, since
// it knows what could not be stored yet and which updates are under way.
type Vault struct {
	config  func() Config
	process string // a random id of this process

	mu       sync.Mutex
	turns    map[Name]*turn    // who is at work on a grant in this process
	unstored map[Name]unstored // what has been spent for and is in memory alone
	seen     map[Name]sighting // the unsettled intents of other processes
	stopped  bool
	stop     chan struct{} // closed once stopped
}

// New returns a vault that works with what config returns at the time.
func New(config func() Config) *Vault {
	return &Vault{
		config:   config,
		process:  randomID(),
		turns:    make(map[Name]*turn),
		unstored: make(map[Name]unstored),
		seen:     make(map[Name]sighting),
		stop:     make(chan struct{}),
	}
}

// Grant says which grant is meant.
type Grant struct {
	Name Name

	// Label is kept for List.
	Label Label

	// Configured is the digest of the refresh token in the config which the grant
	// begins with; empty if somebody signs in.
	Configured string

	// AskedFor is the digest of what the access token is asked for with. One that was
	// asked for otherwise does not serve; empty if any will do.
	AskedFor string

	// Timeout is how long one request that spends the refresh token may take.
	Timeout time.Duration
}

// answers reports whether the record's access token is what the grant is asked for.
func (g Grant) answers(r Record) bool { return g.AskedFor == "" || g.AskedFor == r.AskedFor }

// Bound is how long an update takes at most.
func (g Grant) Bound() time.Duration {
	return 2*g.Timeout + lockWait + readingTime + storingTime
}

// Held is a grant as the vault has it.
type Held struct {
	Record

	// Unstored says that this generation is in the memory of this process alone.
	// Its access token is best left unused until the one before has to be
	// replaced: what is used, a server does not give out again.
	Unstored bool

	// Doubtful says that the refresh token may have been spent with nothing to
	// show for it, by a process that was killed, say. An update at once may
	// still save the grant, while the server's grace lasts.
	Doubtful bool

	// SignIn says that the grant is dead, and why; nil if it is alive. The access
	// token may be good until it expires.
	SignIn *SignInError
}

// Load returns the newest generation of a grant. The error is ErrAbsent if there is
// none; a *KeyError, a *VersionError or a *StorageError say that there may well be
// one.
func (v *Vault) Load(ctx context.Context, name Name) (Held, error) {
	type result struct {
		held Held
		err  error
	}
	done := make(chan result, 1)
	go func() { // some storages ignore the context
		s, err := v.read(ctx, name)
		if err != nil {
			done <- result{err: err}
			return
		}
		held, err := v.newest(s, name)
		done <- result{held, err}
	}()
	select {
	case r := <-done:
		return r.held, r.err
	case <-ctx.Done():
		return Held{}, &StorageError{Operation: "load", Err: ctx.Err()}
	}
}

// newest returns the newest generation, be it in the snapshot or in memory.
func (v *Vault) newest(s snapshot, name Name) (Held, error) {
	held := Held{Record: s.newest()}
	if u, ok := v.unstoredOf(name); ok && u.record.Generation > held.Generation {
		held = Held{Record: u.record, Unstored: true}
	}
	held.SignIn = s.intent.signIn(held.Record)
	held.Doubtful = s.doubtful(held.Generation)
	if held.Generation > 0 || held.SignIn != nil {
		return held, nil
	}
	return held, s.absent()
}

// Stop ends all spending for good, and does what Flush does: for when the process
// is about to exit.
func (v *Vault) Stop(ctx context.Context) error {
	v.mu.Lock()
	if !v.stopped {
		v.stopped = true
		close(v.stop)
	}
	v.mu.Unlock()
	return v.Flush(ctx)
}

func (v *Vault) isStopped() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stopped
}

// randomID returns an id that no other process, and no other attempt, has.
func randomID() string {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// sleep returns early if ctx ends, and then reports false.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
