package vault

import (
	"context"
	"errors"
	"time"
)

const (
	// takeover is how long an intent stands before it is believed, where the
	// refresh token may have been spent, or where there is no lock: long enough
	// for another intent to show, and for a live process to store once more what
	// it could not store before.
	takeover = 2 * retryInterval

	// glance is how often a process that waits for another one looks.
	glance = time.Second

	// again is how long after a lost answer the refresh token is spent once more:
	// within every server's grace.
	again = 500 * time.Millisecond
)

var errTooLate = errors.New("it took so long that nothing was spent")

// Spend gets the next generation for the held one's refresh token. It begins with a
// copy of held and changes what the answer changes; the vault numbers it. An error
// says what became of the refresh token if it is a *SpendError. If the record comes
// with a refresh token beside an error, the answer held one and cannot be used
// otherwise: it is stored, and the error returned.
type Spend func(ctx context.Context, held Record) (Record, error)

// Update gets the generation after known, which is what the caller works with: a
// record of the vault's, or, at the beginning of a grant, one of generation zero with
// the refresh token that was given. What Update returns may have been got by another
// process, and be no fresher than the caller wants it; then that is known the next
// time.
//
// ctx ends the caller's wait alone. Whatever it does, the update ends within two
// timeouts and 15 s.
func (v *Vault) Update(ctx context.Context, g Grant, known Record, spend Spend) (Held, error) {
	return v.do(ctx, g, true, func(ctx context.Context) (Held, error) {
		u := &update{v: v, Grant: g, known: known}
		defer u.lock.release()
		return u.run(ctx, spend)
	})
}

// update is one run of the protocol.
type update struct {
	v *Vault
	Grant
	known Record
	lock  lock

	intent intent // ours
}

func (u *update) run(ctx context.Context, spend Spend) (Held, error) {
	u.lock.acquire(ctx, u.v, u.Name)
	held, adopted, err := u.claim(ctx)
	if err != nil || adopted {
		return held, err
	}
	if err := u.mayGoOn(ctx); err != nil {
		u.settle(ctx, &SpendError{NotSent, err})
		return held, err
	}
	next, err := u.spend(ctx, held.Record, spend)
	if err == nil || !next.RefreshToken.IsZero() {
		held, _ = u.v.keep(ctx, u.Grant, u.successor(held.Record, next))
		return held, err
	}
	if verdictOf(err) == Rejected {
		return u.secondLook(ctx, held.Record, err)
	}
	u.settle(ctx, err)
	return held, err
}

// mayGoOn returns an error once nothing is to be spent any more: after Stop, and when
// too little time is left.
func (u *update) mayGoOn(ctx context.Context) error {
	if u.v.isStopped() {
		return ErrStopped
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < u.Timeout {
		return &StorageError{"update", errTooLate}
	}
	return nil
}

// claim goes through steps 3 and 4: it returns the generation whose refresh token may
// be spent, or one to adopt.
func (u *update) claim(ctx context.Context) (held Held, adopted bool, err error) {
	for {
		if err := u.mayGoOn(ctx); err != nil {
			return held, false, err
		}
		s, err := u.v.read(ctx, u.Name)
		if err != nil {
			return held, false, u.keyProblem(err)
		}
		held, adopted, err = u.choose(ctx, &s)
		if err != nil || adopted {
			return held, adopted, u.keyProblem(err)
		}
		if rest := u.obstacle(&s); rest > takeover {
			sleep(ctx, min(glance, rest-takeover))
			continue
		}
		claimed, err := u.declare(ctx, &s, held.Record)
		if err != nil || claimed {
			return held, false, u.keyProblem(err)
		}
		sleep(ctx, glance)
	}
}

// choose returns the newest generation, and whether it is news to the caller. One
// that is not in the storage goes there first, be it that the storage has lost it or
// could not take it before: nothing is spent while it takes nothing.
func (u *update) choose(ctx context.Context, s *snapshot) (held Held, adopted bool, err error) {
	held, err = u.v.newest(*s, u.Name)
	if u.known.Generation > held.Generation || held.Generation == 0 && errors.Is(err, ErrAbsent) && !u.known.RefreshToken.IsZero() {
		held, err = Held{Record: u.known, SignIn: s.intent.signIn(u.known)}, nil
	}
	if held.SignIn != nil {
		return held, false, held.SignIn
	}
	if err != nil {
		return held, false, err
	}
	adopted = held.follows(u.known) && u.answers(held.Record)
	if held.Generation > s.newest().Generation {
		held, err = u.v.keep(ctx, u.Grant, held.Record)
		if err != nil && !adopted {
			return held, false, err
		}
	}
	if adopted {
		u.v.report(Adopted, u.Grant, held.Record, held.Attempt, nil)
	}
	return held, adopted, nil
}

// obstacle returns for how long the intent of another process is still to be
// respected.
func (u *update) obstacle(s *snapshot) time.Duration {
	if s.intent.Generation < max(s.newest().Generation, u.known.Generation) {
		return 0
	}
	u.v.mu.Lock()
	defer u.v.mu.Unlock()
	if seen, ok := u.v.seen[u.Name]; ok {
		return u.Timeout - time.Since(seen.at)
	}
	return 0
}

// declare stores our intent to spend the record, and reports whether that may be
// done.
func (u *update) declare(ctx context.Context, s *snapshot, r Record) (bool, error) {
	doubtful := s.doubtful(r.Generation)
	if r.Generation == 0 {
		if err := u.v.storeLabel(ctx, u.Grant); err != nil {
			return false, err
		}
	}
	u.intent = intent{
		State: spending, Generation: r.Generation, Digest: r.digest(),
		Process: u.v.process, Attempt: randomID(), At: time.Now(),
		Doubtful: doubtful, Configured: u.Configured,
	}
	if _, err := u.v.write(ctx, u.Name, intentObject, u.intent); err != nil {
		return false, err
	}
	if doubtful && !u.v.knows(s) || !u.lock.held() {
		sleep(ctx, takeover)
	}
	after, err := u.v.read(ctx, u.Name)
	if err != nil {
		return false, err
	}
	switch after.intent.Attempt {
	case u.intent.Attempt:
		return after.newest().Generation <= r.Generation, nil
	case s.intent.Attempt:
		return false, &StorageError{"store", errNotKept}
	}
	return false, nil // another process's took its place
}

// spend is step 5.
func (u *update) spend(ctx context.Context, held Record, spend Spend) (Record, error) {
	if u.intent.Doubtful {
		u.v.report(PossiblySpent, u.Grant, held, u.intent.Attempt, nil)
	}
	u.v.report(Spent, u.Grant, held, u.intent.Attempt, nil)
	next, err := spend(ctx, held)
	if verdictOf(err) != Unanswered || !sleep(ctx, again) {
		return next, err
	}
	u.v.report(Retried, u.Grant, held, u.intent.Attempt, err)
	u.intent.Doubtful = true
	return spend(ctx, held)
}

// successor completes the generation that follows.
func (u *update) successor(held, next Record) Record {
	next.Generation = held.Generation + 1
	if next.RefreshToken.IsZero() {
		next.RefreshToken = held.RefreshToken
	}
	if next.SignedInAt.IsZero() {
		next.SignedInAt = held.SignedInAt
	}
	next.Configured, next.AskedFor = u.Configured, u.AskedFor
	next.Process, next.Attempt, next.Previous = u.v.process, u.intent.Attempt, held.digest()
	return next
}

// settle ends our intent where nothing came of it, so that nobody waits for it. If
// that fails, the others wait.
func (u *update) settle(ctx context.Context, err error) {
	u.intent.State = possible
	if verdictOf(err) == NotSent && !u.intent.Doubtful {
		u.intent.State = settled
	}
	u.intent.Error = err.Error()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storingTime)
	defer cancel()
	_, _ = u.v.write(ctx, u.Name, intentObject, u.intent)
}

// secondLook is what a rejected refresh token calls for. Another process may have
// spent it, and have had no time yet to store what came of it.
func (u *update) secondLook(ctx context.Context, held Record, cause error) (Held, error) {
	patience := u.Timeout
	if u.v.config().Alone {
		patience = 0
	}
	for end := time.Now().Add(patience); ; {
		s, err := u.v.read(ctx, u.Name)
		if err != nil {
			u.settle(ctx, cause)
			return Held{Record: held}, cause
		}
		if newest, _ := u.v.newest(s, u.Name); newest.follows(held) {
			if !u.answers(newest.Record) {
				u.settle(ctx, cause)
				return Held{Record: held}, cause // the next update begins with that
			}
			u.v.report(Adopted, u.Grant, newest.Record, newest.Attempt, nil)
			return newest, nil
		}
		rest := time.Until(end)
		if rest <= 0 {
			break
		}
		if !sleep(ctx, min(glance, rest)) {
			u.settle(ctx, cause) // no time for a second look: the next update has
			return Held{Record: held}, cause
		}
	}
	u.intent.State, u.intent.At, u.intent.Error = rejected, time.Now(), cause.Error()
	if err := u.v.store(ctx, u.Name, intentObject, u.intent); err != nil {
		return Held{Record: held}, err
	}
	dead := u.intent.signIn(held)
	u.v.report(SignInNeeded, u.Grant, held, u.intent.Attempt, dead)
	return Held{Record: held, SignIn: dead}, dead
}

// keyProblem reports err if it is one.
func (u *update) keyProblem(err error) error {
	_, wrong := errors.AsType[*KeyError](err)
	_, unknown := errors.AsType[*VersionError](err)
	if wrong || unknown {
		u.v.report(KeyProblem, u.Grant, u.known, "", err)
	}
	return err
}
