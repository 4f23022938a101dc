package vault

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

const (
	// voidAfter is how long an intent that has done its work is left: far longer
	// than any process could still care.
	voidAfter = time.Hour

	// markAfter is how long the mark of a disconnected grant is left, for the
	// processes that have it in memory.
	markAfter = 30 * 24 * time.Hour
)

// Entry is a grant in a list.
type Entry struct {
	Name  Name
	Label Label
	Held  Held

	// LastError is what the last update failed with; empty if it did not.
	LastError string

	// OldKey says that part of it still needs the previous key.
	OldKey bool

	// Err is why nothing can be said about the grant; nil otherwise.
	Err error
}

// List returns all grants that are kept, whichever config they belong to.
func (v *Vault) List(ctx context.Context) ([]Entry, error) {
	names, err := v.list(ctx, indexRoot)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(names))
	for _, name := range names {
		entries = append(entries, v.Entry(ctx, name))
	}
	return entries, nil
}

// Entry returns what List would of that grant. Its Err is ErrAbsent if there is none.
func (v *Vault) Entry(ctx context.Context, name Name) Entry {
	e := Entry{Name: name}
	old, err := v.load(ctx, name, indexObject, &e.Label)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.Err = err
		return e
	}
	s, err := v.read(ctx, name)
	if err != nil {
		e.Err = err
		return e
	}
	e.OldKey = old || len(s.old) > 0
	e.Held, e.Err = v.newest(s, name)
	if s.intent.Generation == e.Held.Generation {
		e.LastError = s.intent.Error
	}
	return e
}

// Sweep deletes what has had its time: expired access tokens that were shared, the
// intents of generations that were followed by another, and, after a month, the marks
// of grants that somebody disconnected. It never deletes a grant.
func (v *Vault) Sweep(ctx context.Context) error {
	return errors.Join(v.sweepShared(ctx), v.sweepIntents(ctx))
}

func (v *Vault) sweepShared(ctx context.Context) error {
	names, err := v.list(ctx, sharedRoot)
	for _, name := range names {
		var content openRecord
		if _, failed := v.load(ctx, name, sharedObject, &content); failed == nil && content.record().Expired() {
			err = errors.Join(err, v.remove(ctx, name, sharedObject))
		}
	}
	return err
}

func (v *Vault) sweepIntents(ctx context.Context) error {
	names, err := v.list(ctx, root)
	for _, name := range names {
		s, failed := v.read(ctx, name)
		if failed != nil || !s.finished() {
			continue
		}
		_, failed = v.do(ctx, Grant{Name: name}, false, func(ctx context.Context) (Held, error) {
			var l lock
			defer l.release()
			l.acquire(ctx, v, name)
			if s, err := v.read(ctx, name); err != nil || !s.finished() || !l.held() {
				return Held{}, err
			}
			return Held{}, v.remove(ctx, name, intentObject)
		})
		err = errors.Join(err, failed)
	}
	return err
}

// finished reports whether nobody needs the intent any more.
func (s *snapshot) finished() bool {
	age := time.Since(s.intent.At)
	switch {
	case s.intent.State == "":
		return false
	case s.newest().Generation > s.intent.Generation:
		return age > voidAfter
	}
	return s.intent.State == disconnected && s.intent.Configured == "" && age > markAfter
}
