package vault

import "time"

// Event is what an Outcome is about.
type Event int

const (
	// Operated: the storage was asked for something. Operation, Took and Err say
	// what came of it; Err is fs.ErrNotExist where there is nothing. All other
	// events are about a grant.
	Operated Event = iota

	// Adopted: another process had got a newer generation.
	Adopted

	// Spent: the refresh token is about to be spent.
	Spent

	// Retried: it is about to be spent once more, since no answer came (Err).
	Retried

	// PossiblySpent: the refresh token may have been spent before, with nothing
	// to show for it; it is tried all the same.
	PossiblySpent

	// Stored: a generation is durable. Since is set if storing it had failed.
	Stored

	// StoreFailing: a generation that was spent for is in memory alone, since
	// Since, and Err is why. It is told when an update fails to store, and then
	// once a minute.
	StoreFailing

	// SignInNeeded: the grant has died.
	SignInNeeded

	// KeyProblem: the grant cannot be opened, or sealed, with the keys there are.
	KeyProblem
)

// Outcome is one thing that happened in a vault: what log, metrics and events are
// written from. It holds no secret.
type Outcome struct {
	Event Event

	// Of Operated.
	Operation string // load, store, delete, list, lock, unlock
	Took      time.Duration

	// Of all others. Digest is short, and tells one refresh token from another.
	Grant      Name
	Label      Label
	Generation uint64
	Digest     string
	Attempt    string
	Since      time.Time

	Err error
}

func (v *Vault) observe(o Outcome) {
	if observe := v.config().Observe; observe != nil {
		observe(o)
	}
}

// report tells what happened to a generation of a grant.
func (v *Vault) report(event Event, g Grant, r Record, attempt string, err error) {
	v.observe(Outcome{
		Event: event, Grant: g.Name, Label: g.Label,
		Generation: r.Generation, Digest: short(r.digest()), Attempt: attempt, Err: err,
	})
}
