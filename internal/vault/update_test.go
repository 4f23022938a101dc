package vault

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// test runs f in a bubble of its own, with a process on a good disk.
func test(t *testing.T, f func(t *testing.T, c *caddy)) {
	synctest.Test(t, func(t *testing.T) {
		c := newDisk().caddy()
		f(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = c.Stop(ctx)
		time.Sleep(2 * time.Hour) // for what hangs to end
	})
}

func TestRotation(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		first := c.signIn(t, "token 1")
		wantToken(t, first, 1, "token 1")
		second := c.rotate(t, first.Record, "token 2")
		third := c.rotate(t, second.Record, "token 3")

		wantToken(t, third, 3, "token 3")
		wantToken(t, c.disk.caddy().kept(t), 3, "token 3")
		if third.Previous != second.digest() || third.SignedInAt.IsZero() || third.Process != c.process {
			t.Errorf("the record does not say where it comes from: %+v", third.Record.unsealed())
		}
		if c.saw(Spent) != 2 || c.saw(Stored) != 3 {
			t.Errorf("got %d spent and %d stored, want 2 and 3", c.saw(Spent), c.saw(Stored))
		}
	})
}

func TestOperationsOfARotation(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		held := c.signIn(t, "token 1")
		c.operations()
		c.rotate(t, held.Record, "token 2")
		got := strings.Join(c.operations(), " ")
		const want = "lock load load load store load load load store load unlock"
		if got != want {
			t.Errorf("a rotation does\n%s, want\n%s", got, want)
		}
	})
}

// The newest generation is never overwritten, so a write that comes to nothing leaves
// what it would have followed.
func TestTornSlotLeavesItsPredecessor(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		held := c.signIn(t, "token 1")
		held = c.rotate(t, held.Record, "token 2")
		c.rotate(t, held.Record, "token 3")

		key := partner.Name.key(slotOf(3))
		c.disk.objects[key] = c.disk.objects[key][:20]
		restarted := c.disk.caddy()
		wantToken(t, restarted.kept(t), 2, "token 2")
		if !restarted.kept(t).Doubtful {
			t.Error("nothing says that token 2 may have been spent")
		}
	})
}

func TestConfiguredTokenStartsAGrantOnce(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		configured := Record{RefreshToken: authserver.NewSecret("configured")}
		held, err := c.Update(t.Context(), partner, configured, func(ctx context.Context, held Record) (Record, error) {
			if held.RefreshToken.Reveal() != "configured" {
				t.Errorf("spent %q", held.RefreshToken.Reveal())
			}
			return issue("token 1")(ctx, held)
		})
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, held, 1, "token 1")

		restarted := c.disk.caddy()
		held, err = restarted.Update(t.Context(), partner, configured, unspent(t))
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, held, 1, "token 1")
	})
}

func TestNothingIsSpentWithoutAGrant(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		if _, err := c.Update(t.Context(), partner, Record{}, unspent(t)); !errors.Is(err, ErrAbsent) {
			t.Errorf("got %v, want ErrAbsent", err)
		}
	})
}

func TestNewerGenerationIsAdopted(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		c.rotate(t, known.Record, "token 2")

		other := c.disk.caddy()
		held, err := other.Update(t.Context(), partner, known.Record, unspent(t))
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, held, 2, "token 2")
		if other.saw(Adopted) != 1 {
			t.Errorf("told of %d adoptions, want 1", other.saw(Adopted))
		}
	})
}

func TestOneUpdateAtATimeInAProcess(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		spent := 0
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				held, err := c.Update(t.Context(), partner, known.Record, slow(time.Second, func(ctx context.Context, held Record) (Record, error) {
					spent++
					return issue("token 2")(ctx, held)
				}))
				if err != nil || held.Generation != 2 {
					t.Errorf("got %v, %v", held, err)
				}
			})
		}
		all.Wait()
		if spent != 1 {
			t.Errorf("spent %d times, want once", spent)
		}
	})
}

func TestCallerLeavesAndTheUpdateGoesOn(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Update(ctx, partner, known.Record, slow(3*time.Second, issue("token 2"))); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline's error", err)
		}
		synctest.Wait()
		time.Sleep(3 * time.Second)
		wantToken(t, c.kept(t), 2, "token 2")
	})
}

func TestAnswerWithoutRefreshTokenKeepsTheOldOne(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		held, err := c.Update(t.Context(), partner, known.Record, func(context.Context, Record) (Record, error) {
			return Record{AccessToken: authserver.NewSecret("access")}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, held, 2, "token 1")
	})
}

func TestUnusableAnswerWithRefreshTokenIsStored(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		unusable := errors.New("token_type mac is not known")
		_, err := c.Update(t.Context(), partner, known.Record, func(_ context.Context, held Record) (Record, error) {
			held.RefreshToken = authserver.NewSecret("token 2")
			return held, unusable
		})
		if !errors.Is(err, unusable) {
			t.Errorf("got %v, want what is wrong with the answer", err)
		}
		wantToken(t, c.kept(t), 2, "token 2")
	})
}

func TestLostAnswer(t *testing.T) {
	for _, row := range []struct {
		name       string
		answers    []Spend
		generation uint64
		doubtful   bool
	}{
		{"comes the second time", []Spend{fail(Unanswered), issue("token 2")}, 2, false},
		{"never comes", []Spend{fail(Unanswered), fail(Unanswered)}, 1, true},
		{"and then the server cannot be reached", []Spend{fail(Unanswered), fail(NotSent)}, 1, true},
		{"is not what a 503 is", []Spend{fail(Failed)}, 1, true},
		{"is not what a failed connection is", []Spend{fail(NotSent)}, 1, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				known := c.signIn(t, "token 1")
				began := time.Now()
				_, err := c.Update(t.Context(), partner, known.Record, inTurn(row.answers...))
				if took := time.Since(began); took > time.Second {
					t.Errorf("the second time came after %s", took)
				}
				held := c.kept(t)
				if held.Generation != row.generation || held.Doubtful != row.doubtful || (err == nil) != (row.generation == 2) {
					t.Errorf("got generation %d, doubtful %t and error %v", held.Generation, held.Doubtful, err)
				}
				if c.saw(Retried) != len(row.answers)-1 {
					t.Errorf("told of %d retries, want %d", c.saw(Retried), len(row.answers)-1)
				}
			})
		})
	}
}

// A process that was killed leaves its intent.
func TestIntentOfAnotherProcessIsWaitedOut(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		go c.Update(t.Context(), partner, known.Record, slow(time.Second, func(context.Context, Record) (Record, error) {
			c.storage.kill()
			return Record{}, errKilled
		}))
		time.Sleep(2 * time.Second)

		other := c.disk.caddy()
		if !other.kept(t).Doubtful {
			t.Error("nothing says that an update was begun")
		}
		began := time.Now()
		held := other.rotate(t, known.Record, "token 2")
		wantToken(t, held, 2, "token 2")
		if took := time.Since(began); took < partner.Timeout || took > partner.Timeout+lockWait {
			t.Errorf("the other process waited %s", took)
		}
		if other.saw(PossiblySpent) != 1 {
			t.Error("nothing says that the refresh token was possibly spent before")
		}
	})
}

func TestIntentThatCameToNothingIsNotWaitedFor(t *testing.T) {
	for name, verdict := range map[string]Verdict{"not sent": NotSent, "failed": Failed} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				known := c.signIn(t, "token 1")
				_, _ = c.Update(t.Context(), partner, known.Record, fail(verdict))
				began := time.Now()
				other := c.disk.caddy()
				wantToken(t, other.rotate(t, known.Record, "token 2"), 2, "token 2")
				if took := time.Since(began); took > takeover {
					t.Errorf("the other process waited %s", took)
				}
				if doubt := other.saw(PossiblySpent) == 1; doubt != (verdict == Failed) {
					t.Errorf("possibly spent: %t", doubt)
				}
			})
		})
	}
}

// Where locks are worth nothing, two processes may spend the same token. The one that
// is rejected must not take the grant for dead, as the other one has the next.
func TestRejectionIsBelievedAfterASecondLook(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		other := c.disk.caddy()
		held, err := c.Update(t.Context(), partner, known.Record, func(ctx context.Context, held Record) (Record, error) {
			go func() { // as if it had passed its own check
				time.Sleep(3 * time.Second)
				next, _ := issue("token 2")(ctx, held)
				next.Generation, next.Attempt = 2, "other"
				if _, err := other.keep(ctx, partner, next); err != nil {
					t.Error(err)
				}
			}()
			return fail(Rejected)(ctx, held)
		})
		if err != nil {
			t.Fatal(err)
		}
		wantToken(t, held, 2, "token 2")
		if c.saw(SignInNeeded) != 0 {
			t.Error("somebody was asked to sign in")
		}
	})
}

func TestRejectedGrantIsMarkedAndNotDeleted(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		for _, process := range []*caddy{c, c.disk.caddy()} {
			spend := fail(Rejected)
			if process != c {
				spend = unspent(t)
			}
			_, err := process.Update(t.Context(), partner, known.Record, spend)
			if dead, ok := errors.AsType[*SignInError](err); !ok || dead.Disconnected || dead.PossiblySpent {
				t.Errorf("got %v, want a SignInError", err)
			}
		}
		held := c.kept(t)
		wantToken(t, held, 1, "token 1")
		if held.SignIn == nil || c.saw(SignInNeeded) != 1 {
			t.Error("nothing says that somebody has to sign in")
		}

		held = c.signIn(t, "token 2")
		wantToken(t, held, 2, "token 2")
		wantToken(t, c.rotate(t, held.Record, "token 3"), 3, "token 3")
	})
}

func TestMarkSaysThatTheAnswerWasLost(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		_, err := c.Update(t.Context(), partner, known.Record, inTurn(fail(Unanswered), fail(Rejected)))
		if dead, ok := errors.AsType[*SignInError](err); !ok || !dead.PossiblySpent {
			t.Errorf("got %v, which does not say that the answer was lost", err)
		}
	})
}

func TestPanicWhileSpending(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		_, err := c.Update(t.Context(), partner, known.Record, func(context.Context, Record) (Record, error) { panic("a secret") })
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
		wantToken(t, c.rotate(t, known.Record, "token 2"), 2, "token 2")
	})
}
