package vault

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrAbsent is the error for a grant that is not there, as far as a storage
	// can be believed.
	ErrAbsent = errors.New("no grant is kept")

	// ErrAlive is the error of Put where a grant is alive.
	ErrAlive = errors.New("a grant that may still be good is kept already")

	// ErrStopped is the error of an update that would have to spend a refresh
	// token after Stop.
	ErrStopped = errors.New("nothing is spent any more: Caddy is stopping")
)

// StorageError is a storage that failed. It tells nothing about the grant.
type StorageError struct {
	Operation string
	Err       error
}

func (e *StorageError) Error() string {
	return fmt.Sprintf("the storage failed (%s): %v", e.Operation, e.Err)
}

func (e *StorageError) Unwrap() error { return e.Err }

// KeyError is a key that is missing, or not the one that an object was sealed with.
// Nothing is overwritten then.
type KeyError struct {
	// KeyID is that of the key which is needed; empty if any will do.
	KeyID string

	have string
}

func (e *KeyError) Error() string {
	switch {
	case e.KeyID == "":
		return "encryption_key is missing: make one with 'openssl rand -base64 32'"
	case e.have == "":
		return fmt.Sprintf("encryption_key is missing: what is kept is sealed with the key whose id is %s", e.KeyID)
	}
	return fmt.Sprintf("what is kept is sealed with the key whose id is %s, and encryption_key is %s: write the other one as previous_encryption_key", e.KeyID, e.have)
}

// VersionError is an object of a version that is not known here. It is left alone.
type VersionError struct {
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("what is kept has version %d, and only version %d is known here: update this Caddy", e.Version, version)
}

// SignInError is a grant that is dead: somebody has to sign in again.
type SignInError struct {
	// Disconnected says that it was ended on purpose. Else the server rejected
	// the refresh token.
	Disconnected bool

	// At is when.
	At time.Time

	// PossiblySpent says that the refresh token may have been spent before it was
	// rejected, with the answer lost.
	PossiblySpent bool

	// Reason is what the server was understood to say.
	Reason string
}

func (e *SignInError) Error() string {
	text := "the grant was disconnected"
	if !e.Disconnected {
		text = "the refresh token was rejected"
	}
	if e.PossiblySpent {
		text += ", after it may have been used already and the answer lost"
	}
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	return text + ": sign in again"
}

// Verdict is what became of a refresh token that could not be spent.
type Verdict int

const (
	// Failed: the server answered, and neither gave a token nor rejected the
	// refresh token.
	Failed Verdict = iota

	// NotSent: the request never reached the server, for it was not written.
	NotSent

	// Unanswered: the request was written, and no whole answer came.
	Unanswered

	// Rejected: the server says that the refresh token is not good, or no longer.
	Rejected
)

// SpendError is how the function that Update calls says what became of the refresh
// token. Any other error counts as Failed.
type SpendError struct {
	Verdict Verdict
	Err     error // tells no secret
}

func (e *SpendError) Error() string { return e.Err.Error() }

func (e *SpendError) Unwrap() error { return e.Err }

// verdictOf returns what err says about the refresh token.
func verdictOf(err error) Verdict {
	if failed, ok := errors.AsType[*SpendError](err); ok {
		return failed.Verdict
	}
	return Failed
}
