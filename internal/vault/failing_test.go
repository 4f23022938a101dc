package vault

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestNothingIsSpentWhileTheStorageCannotBeUsed(t *testing.T) {
	for name, wrong := range map[string]vice{
		"refuses":                 refusing,
		"cannot be written":       readOnly,
		"loses what it is given":  losing,
		"hides what it has":       hidingAll,
		"tears what it is given":  tearing,
		"takes and says it fails": forgetful,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				known := c.signIn(t, "token 1")
				known = c.rotate(t, known.Record, "token 2")
				c.disk.troubled(wrong, time.Minute)
				_, err := c.Update(t.Context(), partner, known.Record, unspent(t))
				if _, failed := errors.AsType[*StorageError](err); !failed {
					t.Errorf("got %v, want a StorageError", err)
				}
				time.Sleep(2 * time.Minute)
				wantToken(t, c.rotate(t, known.Record, "token 3"), 3, "token 3")
			})
		})
	}
}

func TestStorageThatHangsEndsTheWaitAndNotMore(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		c.disk.troubled(hanging, time.Hour)
		began := time.Now()
		_, err := c.Update(t.Context(), partner, known.Record, unspent(t))
		if _, failed := errors.AsType[*StorageError](err); !failed {
			t.Errorf("got %v, want a StorageError", err)
		}
		if took := time.Since(began); took > 2*partner.Timeout+15*time.Second {
			t.Errorf("the update took %s", took)
		}
		time.Sleep(2 * time.Hour)
		wantToken(t, c.rotate(t, known.Record, "token 2"), 2, "token 2")
	})
}

// spentInVain spends the refresh token and finds that the storage takes nothing then.
func (c *caddy) spentInVain(t *testing.T, known Record, wrong vice, howLong time.Duration) Held {
	t.Helper()
	held, err := c.Update(t.Context(), partner, known, func(ctx context.Context, held Record) (Record, error) {
		c.disk.troubled(wrong, howLong)
		return issue("token 2")(ctx, held)
	})
	if err != nil || !held.Unstored {
		t.Fatalf("got %v, %v; want what could not be stored", held, err)
	}
	wantToken(t, held, 2, "token 2")
	if c.Unstored() != 1 {
		t.Errorf("%d grants are said to be unstored, want 1", c.Unstored())
	}
	return held
}

func TestWhatCouldNotBeStoredIsStoredLater(t *testing.T) {
	for name, wrong := range map[string]vice{"refused": refusing, "lost": losing, "torn": tearing, "hung": hanging} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, c *caddy) {
				known := c.signIn(t, "token 1")
				c.spentInVain(t, known.Record, wrong, 30*time.Second)
				if wrong == refusing {
					if _, err := c.Load(t.Context(), partner.Name); err == nil {
						t.Error("the storage is not in trouble")
					}
				}
				time.Sleep(40 * time.Second)
				wantToken(t, c.disk.caddy().kept(t), 2, "token 2")
				if held := c.kept(t); held.Unstored || c.Unstored() != 0 {
					t.Error("it is still said to be unstored")
				}
				failing := c.events(StoreFailing)
				if len(failing) == 0 || failing[0].Since.IsZero() || failing[0].Err == nil {
					t.Errorf("told %+v of the failure", failing)
				}
				if len(failing) > 2 {
					t.Errorf("told %d times within 30 s", len(failing))
				}
				if stored := c.events(Stored); len(stored) != 2 || !stored[0].Since.IsZero() || stored[1].Since.IsZero() {
					t.Errorf("told %+v of what was stored", stored)
				}
			})
		})
	}
}

func TestNextUpdateStoresFirst(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		unstored := c.spentInVain(t, known.Record, readOnly, time.Minute)

		held, err := c.Update(t.Context(), partner, known.Record, unspent(t))
		if err != nil || !held.Unstored {
			t.Errorf("got %v, %v; want token 2, unstored", held, err)
		}
		if _, err = c.Update(t.Context(), partner, unstored.Record, unspent(t)); err == nil {
			t.Error("token 2 would have been spent before it was stored")
		}
	})
}

func TestFlushStoresInTheStorageOfTheNewestConfig(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		c.spentInVain(t, known.Record, readOnly, time.Hour)
		if err := c.Flush(t.Context()); err == nil {
			t.Error("Flush does not say that a grant is in memory alone")
		}

		other := newDisk()
		c.reload(func(config *Config) { config.Storage = other.connect(newRandom(1, 1)) })
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		wantToken(t, other.caddy().kept(t), 2, "token 2")
	})
}

func TestStorageOfAnotherConfigIsGivenWhatMemoryHolds(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		other := newDisk()
		c.reload(func(config *Config) { config.Storage = other.connect(newRandom(1, 1)) })
		wantToken(t, c.rotate(t, known.Record, "token 2"), 2, "token 2")
		wantToken(t, other.caddy().kept(t), 2, "token 2")
	})
}

// The lock is freed where it was taken, whichever storage the config has by then.
func TestReloadInTheMiddleOfAnUpdate(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		other := newDisk()
		held, err := c.Update(t.Context(), partner, known.Record, func(ctx context.Context, held Record) (Record, error) {
			c.reload(func(config *Config) { config.Storage = other.connect(newRandom(1, 1)) })
			return issue("token 2")(ctx, held)
		})
		if err != nil || held.Unstored {
			t.Fatalf("got %v, %v", held, err)
		}
		wantToken(t, other.caddy().kept(t), 2, "token 2")
		if len(c.disk.holders) != 0 {
			t.Error("the lock is still held")
		}
	})
}

func TestStopInTheMiddleOfAnUpdate(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		go c.Update(t.Context(), partner, known.Record, slow(3*time.Second, issue("token 2")))
		synctest.Wait()

		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		wantToken(t, c.disk.caddy().kept(t), 2, "token 2")
		if _, err := c.Update(t.Context(), partner, c.kept(t).Record, unspent(t)); !errors.Is(err, ErrStopped) {
			t.Errorf("got %v, want ErrStopped", err)
		}
	})
}

func TestStopIsBounded(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		c.spentInVain(t, known.Record, hanging, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := c.Stop(ctx); err == nil {
			t.Error("Stop does not say that a grant is in memory alone")
		}
		if ctx.Err() == nil {
			t.Error("Stop did not try")
		}
	})
}

func TestUnreadableStorageIsNotAbsence(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.signIn(t, "token 1")
		c.disk.troubled(refusing, time.Minute)
		_, err := c.Load(t.Context(), partner.Name)
		if _, failed := errors.AsType[*StorageError](err); !failed || errors.Is(err, ErrAbsent) {
			t.Errorf("got %v, want a StorageError", err)
		}
	})
}

func TestLoadOfAStorageThatHangs(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		c.disk.troubled(hanging, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Load(ctx, partner.Name); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline's error", err)
		}
	})
}

func TestStorageThatLostAGrantGetsItBack(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		known = c.rotate(t, known.Record, "token 2")
		clear(c.disk.objects)
		wantToken(t, c.rotate(t, known.Record, "token 3"), 3, "token 3")
		wantToken(t, c.disk.caddy().kept(t), 3, "token 3")
	})
}

func TestUpdateWithoutAStorage(t *testing.T) {
	test(t, func(t *testing.T, c *caddy) {
		known := c.signIn(t, "token 1")
		c.reload(func(config *Config) { config.Storage = nil })
		if _, err := c.Update(t.Context(), partner, known.Record, unspent(t)); err == nil {
			t.Error("an update without a storage")
		}
	})
}
