package vault

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"
)

// snapshot is what the storage says about a grant at one time.
type snapshot struct {
	slots   [2]Record // by generation, modulo 2; zero where none opens
	intent  intent    // zero where none opens
	damaged []string  // the objects that are there and do not open
	old     []string  // the objects that are sealed with the previous key
}

// newest returns the newest generation, which is the grant.
func (s *snapshot) newest() Record {
	if s.slots[0].Generation > s.slots[1].Generation {
		return s.slots[0]
	}
	return s.slots[1]
}

// absent returns the error for a grant of which no generation opens. A first one that
// was torn leaves what was before it: nothing. But where a later one was, a grant has
// been.
func (s *snapshot) absent() error {
	if slices.Contains(s.damaged, slotB) {
		return &StorageError{"load", errDamaged}
	}
	return ErrAbsent
}

// doubtful reports whether the refresh token of the generation may have been spent,
// with nothing here to show for it. What is damaged may be the work of a process that
// is about to store it once more.
func (s *snapshot) doubtful(generation uint64) bool {
	return len(s.damaged) > 0 || s.intent.Generation == generation && (s.intent.State == spending || s.intent.State == possible)
}

// knows reports whether the last intent to spend is our own: then what it brought is
// in memory here, and nobody else is about to store it.
func (v *Vault) knows(s *snapshot) bool {
	return len(s.damaged) == 0 && s.intent.Process == v.process
}

// read loads all objects of a grant.
func (v *Vault) read(ctx context.Context, name Name) (snapshot, error) {
	var s snapshot
	for i, slot := range []string{slotB, slotA} {
		var content openRecord
		if err := v.readObject(ctx, &s, name, slot, &content); err != nil {
			return s, err
		}
		s.slots[i] = content.record()
	}
	err := v.readObject(ctx, &s, name, intentObject, &s.intent)
	if err == nil {
		v.sight(name, s.intent)
	}
	return s, err
}

// sighting is when another process's intent to spend was first seen here. Its own
// time is that of another clock.
type sighting struct {
	attempt string
	at      time.Time
}

func (v *Vault) sight(name Name, i intent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i.State != spending || i.Process == v.process {
		delete(v.seen, name)
	} else if v.seen[name].attempt != i.Attempt {
		v.seen[name] = sighting{i.Attempt, time.Now()}
	}
}

// readObject loads one object. What is not there, and what is damaged, remains zero.
func (v *Vault) readObject(ctx context.Context, s *snapshot, name Name, object string, content any) error {
	old, err := v.load(ctx, name, object, content)
	if old {
		s.old = append(s.old, object)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		s.damaged = append(s.damaged, object)
		return nil
	}
	return err
}

// intent says that a process is about to spend the refresh token of a generation,
// and afterwards what has become of that.
type intent struct {
	State      state     `json:"state"`
	Generation uint64    `json:"generation"`
	Digest     string    `json:"digest"` // of the refresh token
	Process    string    `json:"process"`
	Attempt    string    `json:"attempt"`
	At         time.Time `json:"at"`

	// Doubtful says that an earlier intent for the same generation was never
	// settled: the token may have been spent before.
	Doubtful bool `json:"doubtful,omitempty"`

	// Configured is the grant's, for the mark of one whose slots are gone.
	Configured string `json:"configured,omitempty"`

	// Error is what the last attempt failed with.
	Error string `json:"error,omitempty"`
}

type state string

const (
	spending     state = "spending"     // it is about to be spent, or the process died
	settled      state = "settled"      // it was not spent
	possible     state = "possible"     // it may have been spent, and nothing came of it
	rejected     state = "rejected"     // a mark: the server does not accept it
	disconnected state = "disconnected" // a mark: this generation and all before are to be forgotten
)

// signIn returns why the record is dead; nil if it is not. A mark is overridden by
// any later generation.
func (i *intent) signIn(r Record) *SignInError {
	dead := false
	switch i.State {
	case disconnected:
		dead = r.Generation <= i.Generation
	case rejected:
		dead = r.Generation < i.Generation || r.Generation == i.Generation && r.digest() == i.Digest ||
			r.Generation == 0 && r.RefreshToken.IsZero() && i.Generation == 0
	}
	if !dead {
		return nil
	}
	return &SignInError{Disconnected: i.State == disconnected, At: i.At, PossiblySpent: i.Doubtful, Reason: i.Error}
}
