package vault

import (
	"context"
	"fmt"
	"time"
)

// turn is one piece of work on a grant. There is one at a time in a process, also
// while the storage hangs: what it does late must not meet what came after.
type turn struct {
	update bool // so that others may join it who ask for the same
	asked  string
	done   chan struct{} // closed when it has ended, and held and err are set
	held   Held
	err    error
}

// do makes the work a turn at the grant. An update joins another one that is under
// way; all else waits until it can begin. ctx ends the wait, and never the work.
func (v *Vault) do(ctx context.Context, g Grant, update bool, work func(context.Context) (Held, error)) (Held, error) {
	late := time.NewTimer(g.Bound())
	defer late.Stop()
	for {
		t, mine := v.begin(ctx, g, update, work)
		select {
		case <-t.done:
			if mine || update && t.update && t.asked == g.AskedFor {
				return t.held, t.err
			}
		case <-ctx.Done():
			return Held{}, ctx.Err()
		case <-late.C: // the storage hangs, and does not care for contexts
			if u, ok := v.unstoredOf(g.Name); ok {
				return Held{Record: u.record, Unstored: true}, nil
			}
			return Held{}, &StorageError{"update", fmt.Errorf("no answer within %s", g.Bound())}
		}
	}
}

// begin starts a turn, and reports true. If there is one already, begin returns that.
func (v *Vault) begin(ctx context.Context, g Grant, update bool, work func(context.Context) (Held, error)) (*turn, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.turns[g.Name]; t != nil {
		return t, false
	}
	t := &turn{update: update, asked: g.AskedFor, done: make(chan struct{})}
	v.turns[g.Name] = t
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Bound()-storingTime)
		defer cancel()
		defer v.end(g.Name, t)
		t.held, t.err = work(ctx)
	}()
	return t, true
}

func (v *Vault) end(name Name, t *turn) {
	if p := recover(); p != nil {
		t.err = fmt.Errorf("panic while a grant was updated (%T)", p) // its text may hold anything
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.turns, name)
	close(t.done)
}
