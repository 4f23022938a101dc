package vault

import (
	"context"
	"fmt"
	"time"
)

// retryInterval is how often what could not be stored is stored again. It never
// grows: there is no more of it than updates that were under way when the storage
// began to fail, and another process waits no longer than takeover.
const retryInterval = time.Second

// unstored is a generation that was spent for, and is in memory alone.
type unstored struct {
	grant  Grant
	record Record
	since  time.Time
	failed bool // to be stored, once at least
	silent bool // that it fails still is not told again yet
}

// tellEvery is after how many attempts it is told again that storing fails.
const tellEvery = 60

func (v *Vault) unstoredOf(name Name) (unstored, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	u, ok := v.unstored[name]
	return u, ok
}

// Unstored returns how many grants have a generation in memory alone.
func (v *Vault) Unstored() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.unstored)
}

// keep is step 6. Storing has its own time, for what was spent is spent. If it
// fails, memory keeps the record and it is stored again and again.
func (v *Vault) keep(ctx context.Context, g Grant, r Record) (Held, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storingTime)
	defer cancel()
	v.mu.Lock()
	u, before := v.unstored[g.Name]
	if !before || u.record.Attempt != r.Attempt {
		u, before = unstored{grant: g, record: r, since: time.Now()}, false
		v.unstored[g.Name] = u // first, in case that the storage hangs
	}
	u.failed = before
	v.mu.Unlock()
	err := v.storeSlot(ctx, u)
	if err == nil {
		v.reseal(ctx, g, r.Generation)
	} else if !before {
		u.failed = true
		go v.retry(u)
	}
	return Held{Record: r, Unstored: err != nil}, err
}

// storeSlot stores a generation, which then is no longer unstored.
func (v *Vault) storeSlot(ctx context.Context, u unstored) error {
	if err := v.store(ctx, u.grant.Name, slotOf(u.record.Generation), u.record.unsealed()); err != nil {
		u.failed = true
		if !u.silent {
			v.tell(StoreFailing, u, err)
		}
		return err
	}
	v.forget(u)
	v.tell(Stored, u, nil)
	return nil
}

// tell reports how storing went, and since when it fails or did.
func (v *Vault) tell(event Event, u unstored, err error) {
	o := Outcome{
		Event: event, Grant: u.grant.Name, Label: u.grant.Label,
		Generation: u.record.Generation, Digest: short(u.record.digest()), Attempt: u.record.Attempt, Err: err,
	}
	if u.failed {
		o.Since = u.since
	}
	v.observe(o)
}

// forget ends the record's being unstored.
func (v *Vault) forget(u unstored) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unstored[u.grant.Name].record.Attempt == u.record.Attempt {
		delete(v.unstored, u.grant.Name)
	}
}

// retry stores a generation until that succeeds, without the lock: another process
// may hold it that is about to spend what this generation was had for.
func (v *Vault) retry(u unstored) {
	for attempt := 1; ; attempt++ {
		u.silent = attempt%tellEvery != 0
		select {
		case <-time.After(retryInterval):
		case <-v.stop:
			return // Stop tries once more
		}
		if now, ok := v.unstoredOf(u.grant.Name); !ok || now.record.Attempt != u.record.Attempt {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), storingTime)
		err := v.storeAgain(ctx, u)
		cancel()
		if err == nil {
			return
		}
	}
}

// storeAgain stores the generation, unless the storage has got one that is as good.
func (v *Vault) storeAgain(ctx context.Context, u unstored) error {
	s, err := v.read(ctx, u.grant.Name)
	if err != nil {
		return err
	}
	if newest := s.newest(); newest.Generation >= u.record.Generation {
		v.forget(u)
		if newest.Attempt == u.record.Attempt { // it was stored, and could not be read back
			v.tell(Stored, u, nil)
		}
		return nil
	}
	return v.storeSlot(ctx, u)
}

// Flush waits for the updates under way and stores once more what could not be
// stored, until ctx ends. The error says how many grants remain in memory alone.
func (v *Vault) Flush(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.mu.Lock()
		var turns []*turn
		for _, t := range v.turns {
			turns = append(turns, t)
		}
		v.mu.Unlock()
		for _, t := range turns {
			select {
			case <-t.done:
			case <-ctx.Done():
			}
		}
		v.mu.Lock()
		var left []unstored
		for _, u := range v.unstored {
			left = append(left, u)
		}
		v.mu.Unlock()
		for _, u := range left {
			u.failed = true
			_ = v.storeAgain(ctx, u)
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	if n := v.Unstored(); n > 0 {
		return fmt.Errorf("%d grants could not be stored: their newest refresh tokens are in memory alone", n)
	}
	return nil
}
