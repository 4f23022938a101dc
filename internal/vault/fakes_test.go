package vault

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// disk is what several processes store on, with the vices of real storages.
type disk struct {
	mu      sync.Mutex
	objects map[string][]byte
	before  map[string]overwritten
	holders map[string]*handle // of locks

	locks   lockVice
	vice    vice // during trouble
	trouble []window
	latency time.Duration // of an operation, at most

	stored func(h *handle, key string, value []byte) // called after each store that took
}

type overwritten struct {
	value []byte
	until time.Time
}

// window is a time of trouble.
type window struct{ from, to time.Time }

// lockVice is what is wrong with a storage's locks.
type lockVice int

const (
	goodLocks      lockVice = iota // one holder; a killed one's lapses after 10 s
	noLocks                        // everybody holds them
	expiringLocks                  // a lease of 2 s that nobody renews
	anybodysUnlock                 // one holder, but Unlock frees whoever holds it
	lyingLocks                     // Lock returns nil once the wait is over, held or not
	refusedLocks                   // an error in place of waiting
	hangingLocks                   // Lock returns after ten minutes, whatever the context says
	immortalLocks                  // a killed holder's never lapses
)

const lapse = 10 * time.Second

// vice is what is wrong with a storage's data in times of trouble.
type vice int

const (
	noVice    vice = iota
	refusing       // every operation fails
	readOnly       // stores fail
	hanging        // operations last until the trouble is over, whatever the context says
	hidingAll      // not-exist instead of an error
	losing         // stores are acknowledged and lost
	stale          // loads answer what was there 5 s ago
	tearing        // stores write one half and fail
	forgetful      // stores take and are answered with an error
)

var (
	errTrouble = errors.New("the storage is in trouble")
	errKilled  = errors.New("the process was killed")
)

func newDisk() *disk {
	return &disk{objects: make(map[string][]byte), before: make(map[string]overwritten), holders: make(map[string]*handle)}
}

// handle is a process's connection to the disk.
type handle struct {
	*disk
	random *random

	mu      sync.Mutex
	killed  bool
	died    time.Time
	expires time.Time // of its lock
}

// random is a source of random numbers for goroutines of one process.
type random struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newRandom(seed, stream uint64) *random { return &random{r: rand.New(rand.NewPCG(seed, stream))} }

// upTo returns a random duration, never twice the same in a run.
func (r *random) upTo(d time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.r.Int64N(int64(d)+1)) + 1
}

func (r *random) chance(p float64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Float64() < p
}

func (d *disk) connect(r *random) *handle { return &handle{disk: d, random: r} }

// kill ends the process: nothing it does from now on has an effect.
func (h *handle) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killed, h.died = true, time.Now()
}

func (h *handle) dead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.killed
}

// now returns what is wrong at this time.
func (d *disk) now() (vice, window) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.trouble {
		if now := time.Now(); !now.Before(w.from) && now.Before(w.to) {
			return d.vice, w
		}
	}
	return noVice, window{}
}

// begin lets the time pass that an operation takes to arrive, and returns what is
// wrong then.
func (h *handle) begin(ctx context.Context) (vice, error) {
	if h.dead() {
		return noVice, errKilled
	}
	h.pass()
	wrong, w := h.now()
	switch wrong {
	case refusing:
		return wrong, errTrouble
	case hanging:
		time.Sleep(time.Until(w.to))
	}
	if h.dead() {
		return noVice, errKilled
	}
	return wrong, ctx.Err()
}

// pass lets some time pass, in which other processes have their turn.
func (h *handle) pass() {
	if h.latency > 0 {
		time.Sleep(h.random.upTo(h.latency))
	}
}

func (h *handle) Load(ctx context.Context, key string) ([]byte, error) {
	wrong, err := h.begin(ctx)
	if err != nil {
		return nil, err
	}
	h.disk.mu.Lock()
	value, ok := h.objects[key]
	if old := h.before[key]; wrong == stale && time.Now().Before(old.until) {
		value, ok = old.value, old.value != nil
	}
	h.disk.mu.Unlock()
	h.pass()
	if !ok || wrong == hidingAll {
		return nil, fs.ErrNotExist
	}
	return value, nil
}

func (h *handle) Store(ctx context.Context, key string, value []byte) error {
	wrong, err := h.begin(ctx)
	switch {
	case err != nil:
		return err
	case wrong == readOnly:
		return errTrouble
	case wrong == losing:
		h.pass()
		return nil
	case wrong == tearing:
		value = value[:len(value)/2]
	}
	h.disk.mu.Lock()
	h.before[key] = overwritten{h.objects[key], time.Now().Add(5 * time.Second)}
	h.objects[key] = value
	if h.stored != nil && wrong != tearing {
		h.stored(h, key, value)
	}
	h.disk.mu.Unlock()
	h.pass()
	if wrong == tearing || wrong == forgetful {
		return errTrouble
	}
	return nil
}

func (h *handle) Delete(ctx context.Context, key string) error {
	wrong, err := h.begin(ctx)
	switch {
	case err != nil:
		return err
	case wrong == readOnly:
		return errTrouble
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	delete(h.objects, key)
	return nil
}

func (h *handle) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if _, err := h.begin(ctx); err != nil {
		return nil, err
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	var keys []string
	for key := range h.objects {
		rest, ok := strings.CutPrefix(key, prefix+"/")
		if dir, _, nested := strings.Cut(rest, "/"); ok && nested && !recursive {
			key = prefix + "/" + dir
		}
		if ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (h *handle) Exists(context.Context, string) bool {
	panic("a storage's Exists is not to be believed")
}

func (h *handle) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	panic("a storage's Stat is not to be believed")
}

func (h *handle) Lock(ctx context.Context, name string) error {
	if h.locks == hangingLocks {
		time.Sleep(10 * time.Minute)
		return errTrouble
	}
	if _, err := h.begin(ctx); err != nil {
		return err
	}
	for {
		if h.take(name) || h.locks == noLocks {
			return nil
		}
		if h.locks == refusedLocks {
			return errTrouble
		}
		select {
		case <-time.After(h.random.upTo(time.Second)):
		case <-ctx.Done():
			if h.locks == lyingLocks {
				return nil
			}
			return ctx.Err()
		}
		if h.dead() {
			return errKilled
		}
	}
}

// take makes the lock this process's if it is free.
func (h *handle) take(name string) bool {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if holder := h.holders[name]; holder != nil {
		holder.mu.Lock()
		defer holder.mu.Unlock()
		lapsed := holder.killed && time.Since(holder.died) > lapse && h.locks != immortalLocks ||
			h.locks == expiringLocks && time.Now().After(holder.expires)
		if !lapsed {
			return false
		}
		h.holders[name] = nil
	}
	h.holders[name] = h
	h.expires = time.Now().Add(2 * time.Second)
	return true
}

func (h *handle) Unlock(ctx context.Context, name string) error {
	if _, err := h.begin(ctx); err != nil {
		return err
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.holders[name] == h || h.locks == anybodysUnlock {
		delete(h.holders, name)
	}
	return nil
}

// troubled gives the disk a vice from now on, for that long.
func (d *disk) troubled(v vice, howLong time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vice, d.trouble = v, []window{{time.Now(), time.Now().Add(howLong)}}
}

// snapshotOf copies all objects.
func (d *disk) snapshotOf() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string][]byte)
	for key, value := range d.objects {
		all[key] = bytes.Clone(value)
	}
	return all
}
