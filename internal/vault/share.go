package vault

import (
	"context"
	"errors"
	"io/fs"
)

// Share gets an access token that all processes use. known is the one that the caller
// wants to be rid of; the zero record if it has none. Any other one in the storage
// that has not expired will do, and else fetch gets one.
//
// Nothing is spent by fetching, so there is no intent, and a storage that fails or
// hangs costs no more than the sharing. A *KeyError and a *VersionError are errors
// here as well.
func (v *Vault) Share(ctx context.Context, g Grant, known Record, fetch func(context.Context) (Record, error)) (Held, error) {
	return v.do(ctx, g, true, func(ctx context.Context) (Held, error) {
		u := &update{v: v, Grant: g, known: known}
		if held, err := u.shared(ctx); err != nil || held.Generation > 0 {
			return held, err
		}
		defer u.lock.release()
		u.lock.acquire(ctx, v, g.Name)
		if held, err := u.shared(ctx); err != nil || held.Generation > 0 {
			return held, err
		}
		next, err := fetch(ctx)
		if err != nil {
			return Held{}, err
		}
		next.Generation = known.Generation + 1
		next.Process, next.Attempt, next.AskedFor = v.process, randomID(), g.AskedFor
		err = v.store(ctx, g.Name, sharedObject, next.unsealed())
		if err == nil {
			v.report(Stored, g, next, next.Attempt, nil)
		}
		return Held{Record: next, Unstored: err != nil}, nil
	})
}

// shared returns the access token in the storage; the zero Held if none will do.
func (u *update) shared(ctx context.Context) (Held, error) {
	var content openRecord
	_, err := u.v.load(ctx, u.Name, sharedObject, &content)
	r := content.record()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
		return Held{}, nil
	case err != nil:
		if _, failed := errors.AsType[*StorageError](err); failed {
			return Held{}, nil
		}
		return Held{}, u.keyProblem(err)
	case r.Attempt == u.known.Attempt, r.Expired(), !u.answers(r):
		return Held{}, nil
	}
	u.v.report(Adopted, u.Grant, r, r.Attempt, nil)
	return Held{Record: r}, nil
}

// Unshare drops a shared access token.
func (v *Vault) Unshare(ctx context.Context, name Name) error {
	return v.remove(ctx, name, sharedObject)
}
