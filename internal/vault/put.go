package vault

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"time"
)

// Put keeps a grant that somebody has just given: r is what came of it. A grant that
// is alive is replaced only if the caller says so; otherwise the error is ErrAlive.
// With any other error the record may be in memory alone, and Held tells.
func (v *Vault) Put(ctx context.Context, g Grant, r Record, replace bool) (Held, error) {
	return v.do(ctx, g, false, func(ctx context.Context) (Held, error) {
		u := &update{v: v, Grant: g}
		defer u.lock.release()
		s, err := u.enter(ctx)
		if err != nil {
			return Held{}, err
		}
		held, err := v.newest(s, g.Name)
		if err == nil && held.SignIn == nil && !replace {
			return held, ErrAlive
		}
		if err := v.storeLabel(ctx, g); err != nil {
			return Held{}, u.keyProblem(err)
		}
		r.Generation = max(held.Generation, s.intent.Generation) + 1
		if r.SignedInAt.IsZero() {
			r.SignedInAt = time.Now()
		}
		r.Configured, r.AskedFor, r.Process, r.Attempt = g.Configured, cmp.Or(g.AskedFor, r.AskedFor), v.process, randomID()
		return v.keep(ctx, g, r)
	})
}

// Disconnect forgets a grant, and leaves a mark for the other processes that still
// have it in memory. The refresh token of the config that it began with stays dead
// too. To revoke it at the server is the caller's part.
func (v *Vault) Disconnect(ctx context.Context, g Grant) error {
	_, err := v.do(ctx, g, false, func(ctx context.Context) (Held, error) {
		u := &update{v: v, Grant: g}
		defer u.lock.release()
		s, err := u.enter(ctx)
		if err != nil {
			return Held{}, err
		}
		held, _ := v.newest(s, g.Name)
		mark := intent{
			State: disconnected, Generation: max(held.Generation, s.intent.Generation), Digest: held.digest(),
			Process: v.process, Attempt: randomID(), At: time.Now(), Configured: g.Configured,
		}
		if err := v.store(ctx, g.Name, intentObject, mark); err != nil {
			return Held{}, u.keyProblem(err)
		}
		v.mu.Lock()
		delete(v.unstored, g.Name)
		v.mu.Unlock()
		err = v.removeAll(ctx, g.Name, slotA, slotB, indexObject)
		v.report(SignInNeeded, g, held.Record, mark.Attempt, mark.signIn(held.Record))
		return Held{}, err
	})
	return err
}

// enter takes the lock, waits for a live intent of another process to end, and
// returns what there is then.
func (u *update) enter(ctx context.Context) (snapshot, error) {
	u.lock.acquire(ctx, u.v, u.Name)
	for {
		s, err := u.v.read(ctx, u.Name)
		if err != nil {
			return s, u.keyProblem(err)
		}
		rest := u.obstacle(&s)
		if rest <= 0 {
			return s, nil
		}
		if !sleep(ctx, min(glance, rest)) {
			return s, &StorageError{"update", ctx.Err()}
		}
	}
}

// Delete removes all that is kept of a grant, with no trace. A process that has it in
// memory stores it again: Disconnect is for grants in use.
func (v *Vault) Delete(ctx context.Context, g Grant) error {
	_, err := v.do(ctx, g, false, func(ctx context.Context) (Held, error) {
		v.mu.Lock()
		delete(v.unstored, g.Name)
		v.mu.Unlock()
		return Held{}, v.removeAll(ctx, g.Name, slotA, slotB, intentObject, indexObject)
	})
	return err
}

// removeAll removes as many of the objects as it can.
func (v *Vault) removeAll(ctx context.Context, name Name, objects ...string) error {
	var errs []error
	for _, object := range objects {
		errs = append(errs, v.remove(ctx, name, object))
	}
	return errors.Join(errs...)
}

// storeLabel stores what the grant is called, unless that is there.
func (v *Vault) storeLabel(ctx context.Context, g Grant) error {
	var kept Label
	old, err := v.load(ctx, g.Name, indexObject, &kept)
	switch {
	case err == nil && !old && kept == g.Label:
		return nil
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
		return v.store(ctx, g.Name, indexObject, g.Label)
	}
	return err
}

// Probe proves that the storage takes what the key seals, and gives it back.
func (v *Vault) Probe(ctx context.Context) error {
	name := Name(randomID())
	trial := Label{Client: randomID()}
	if err := v.store(ctx, name, probeObject, trial); err != nil {
		return err
	}
	var back Label
	_, err := v.load(ctx, name, probeObject, &back)
	return errors.Join(err, v.remove(ctx, name, probeObject))
}
