package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// A world is one simulated run: some processes that keep one grant alive on one disk,
// with a server that rotates its refresh tokens. Everything that happens follows from
// the seed: how long each step takes, and so in which order the steps of the
// processes come; who is killed and when; when the disk is in trouble; which answers
// are lost.
type world struct {
	name string

	locks lockVice
	vice  vice // for a few seconds, several times
	kills bool // processes are killed, and replaced soon
	grace bool // the server takes a refresh token again for 30 s; else it revokes the grant
	mild  bool // a server without grace revokes nothing
	loses bool // answers get lost
	slow  bool // the server takes up to 9 s

	latency time.Duration // of a storage operation, at most; 40 ms if zero

	// careless says that the storage may deceive two processes in the same
	// instant, so that a token may be spent twice for no good reason.
	careless bool

	// hopeless says that losing the grant proves nothing.
	hopeless bool
}

var worlds = []world{
	{name: "a good storage"},
	{name: "a slow server", slow: true},
	{name: "a slow server, kills with grace", slow: true, kills: true, grace: true},
	{name: "a slow storage", latency: time.Second},
	{name: "kills", kills: true},
	{name: "kills with grace", kills: true, grace: true},
	{name: "kills while answers get lost, with grace", kills: true, loses: true, grace: true},
	{name: "a storage that refuses", vice: refusing},
	{name: "a storage that refuses, kills", vice: refusing, kills: true},
	{name: "a storage that refuses, kills with grace", vice: refusing, kills: true, grace: true},
	{name: "a storage that cannot be written", vice: readOnly},
	{name: "a storage that cannot be written, kills with grace", vice: readOnly, kills: true, grace: true},
	{name: "a storage that hangs", vice: hanging},
	{name: "a storage that hangs, kills with grace", vice: hanging, kills: true, grace: true},
	{name: "not-exist instead of an error", vice: hidingAll},
	{name: "not-exist instead of an error, kills with grace", vice: hidingAll, kills: true, grace: true},
	{name: "writes acknowledged and lost", vice: losing},
	{name: "torn writes", vice: tearing},
	{name: "torn writes, kills with grace", vice: tearing, kills: true, grace: true},
	{name: "writes done and answered with an error", vice: forgetful},
	{name: "stale reads", vice: stale, careless: true, hopeless: true},
	{name: "stale reads with grace", vice: stale, careless: true, grace: true},
	{name: "locks that all hold", locks: noLocks, careless: true},
	{name: "locks that all hold, with grace", locks: noLocks, careless: true, grace: true},
	{name: "locks that all hold, kills with grace", locks: noLocks, kills: true, careless: true, grace: true},
	{name: "locks that expire", locks: expiringLocks, careless: true},
	{name: "locks that expire, kills with grace", locks: expiringLocks, kills: true, careless: true, grace: true},
	{name: "locks that all hold, a mild server", locks: noLocks, careless: true, mild: true},
	{name: "locks that are refused, a slow storage", locks: refusedLocks, latency: time.Second, careless: true, mild: true},
	{name: "unlock frees anybody's", locks: anybodysUnlock, careless: true, kills: true, grace: true},
	{name: "locks that lie", locks: lyingLocks, kills: true, careless: true, grace: true},
	{name: "locks that are refused", locks: refusedLocks, careless: true},
	{name: "locks that are refused, kills with grace", locks: refusedLocks, kills: true, careless: true, grace: true},
	{name: "locks that hang", locks: hangingLocks},
	{name: "locks of the dead that never lapse", locks: immortalLocks, kills: true, grace: true},
}

const (
	processes = 3
	duration  = 2 * time.Minute
	tokenLife = 25 * time.Second
	margin    = 10 * time.Second
	timeout   = 10 * time.Second
	grace     = 30 * time.Second
)

// TestNoGrantIsLost runs every world with many seeds. A seed that fails is run again
// with -run 'TestNoGrantIsLost/<world>/<seed>$'.
func TestNoGrantIsLost(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			deceived := 0
			for seed := range seeds {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r := newRun(t, w, seed)
						r.play()
						if r.server.wasteful != "" {
							deceived++
						}
						time.Sleep(time.Hour) // for what hangs to end
					})
				})
			}
			t.Logf("%s: %d of %d seeds saw a refresh token spent twice without need", w.name, deceived, seeds)
		})
	}
}

// run is a world with a seed.
type run struct {
	t *testing.T
	world
	random *random
	seed   uint64
	key    Key
	grant  Grant
	disk   *disk
	server *server
	began  time.Time

	mu  sync.Mutex
	log []string
}

func newRun(t *testing.T, w world, seed uint64) *run {
	seed = seed<<32 + uint64(crc32.ChecksumIEEE([]byte(w.name))) // to each world its own
	r := &run{
		t: t, world: w, seed: seed,
		key:   newKey([keySize]byte{1}),
		grant: Grant{Name: NewName("partner"), Label: Label{Client: "partner"}, Timeout: timeout},
		disk:  newDisk(),
		began: time.Now(),
	}
	r.random = newRandom(seed, 0)
	r.server = &server{run: r, grace: w.grace, superseded: make(map[string]time.Time), durable: make(map[string]bool), valid: "first"}
	r.disk.locks, r.disk.vice, r.disk.latency = w.locks, w.vice, cmp.Or(w.latency, 40*time.Millisecond)
	r.disk.stored = r.server.noteStored
	if w.vice != noVice {
		for at := r.random.upTo(time.Minute); at < duration; at += r.random.upTo(time.Minute) {
			from := r.began.Add(at)
			r.disk.trouble = append(r.disk.trouble, window{from, from.Add(r.random.upTo(20 * time.Second))})
		}
	}
	return r
}

// play lets the processes live for a while. Then the storage is well, a process of a
// new kind arrives, and looks what is left.
func (r *run) play() {
	ctx, cancel := context.WithTimeout(r.t.Context(), duration)
	defer cancel()
	var all sync.WaitGroup
	kill := make([]context.CancelFunc, processes)
	for id := range processes {
		all.Go(func() {
			for life := 0; ctx.Err() == nil; life++ {
				living, end := context.WithCancel(ctx)
				r.mu.Lock()
				kill[id] = end
				r.mu.Unlock()
				r.live(living, fmt.Sprintf("%c%d", 'P'+id, life), newRandom(r.seed, uint64(100*id+life+1)))
				time.Sleep(r.random.upTo(2 * time.Second))
			}
		})
	}
	for r.kills && sleep(ctx, grace+r.random.upTo(20*time.Second)) {
		r.mu.Lock()
		kill[int(r.random.upTo(processes-1))%processes]()
		r.mu.Unlock()
	}
	all.Wait()

	r.disk.troubled(noVice, 0)
	judge := r.process("judge", newRandom(r.seed, 1))
	defer judge.end()
	for try := 0; ; try++ {
		err := judge.refresh(r.t.Context())
		if err == nil && !judge.held.Unstored && judge.spent {
			break
		}
		if try == 10 {
			if !r.hopeless && !r.server.mayBeLost() {
				r.fail("the grant is lost, and could have been saved: %v", err)
			}
			break
		}
		time.Sleep(2 * time.Second)
	}
	if r.server.wasteful != "" && !r.careless {
		r.fail("%s", r.server.wasteful)
	}
	if r.server.issued < 4 && !r.server.revoked && r.vice == noVice {
		r.fail("the run proves nothing: the server issued %d tokens", r.server.issued)
	}
	if r.server.mistaken != "" && !r.hopeless {
		r.fail("%s", r.server.mistaken)
	}
	if r.server.unannounced != "" {
		r.fail("%s", r.server.unannounced)
	}
}

// fail ends the run with all that happened in it.
func (r *run) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t.Errorf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(r.log, "\n"))
}

func (r *run) note(who, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, fmt.Sprintf("%9.3f %-5s %s", time.Since(r.began).Seconds(), who, fmt.Sprintf(format, args...)))
}

// process is one Caddy.
type process struct {
	*run
	name   string
	random *random
	handle *handle
	vault  *Vault
	held   Held
	spent  bool
}

func (r *run) process(name string, random *random) *process {
	p := &process{run: r, name: name, random: random, handle: r.disk.connect(random)}
	p.vault = New(func() Config {
		return Config{Storage: p.handle, Key: r.key, Observe: func(o Outcome) {
			if o.Event == SignInNeeded {
				r.server.noteMark(p, o)
			}
			if o.Event != Operated {
				r.note(name, "%s generation %d %s %v", eventNames[o.Event], o.Generation, o.Digest, o.Err)
			}
		}}
	})
	return p
}

var eventNames = [...]string{"operated", "adopted", "spent", "retried", "possibly spent", "stored", "store failing", "sign-in needed", "key problem"}

// live is one life of a process: it keeps its token fresh until it is killed.
func (r *run) live(ctx context.Context, name string, random *random) {
	done, _ := ctx.Deadline()
	p := r.process(name, random)
	r.note(name, "starts")
	for ctx.Err() == nil {
		if p.held.Generation == 0 {
			if held, err := p.vault.Load(ctx, r.grant.Name); err == nil {
				p.held = held
			}
		}
		fresh := time.Until(p.held.ExpiresAt.Add(-margin))
		if fresh <= 0 || p.held.Doubtful {
			if err := p.refresh(ctx); err != nil {
				r.note(name, "fails: %v", err)
				rest := random.upTo(4 * time.Second)
				if _, dead := errors.AsType[*SignInError](err); dead {
					rest = random.upTo(30 * time.Second)
				}
				time.Sleep(rest)
				continue
			}
		}
		select {
		case <-time.After(fresh + random.upTo(500*time.Millisecond)): // all at nearly the same time
		case <-ctx.Done():
		}
	}
	if time.Now().Before(done) {
		r.note(name, "is killed")
		p.handle.kill()
	}
	p.end()
	p.handle.kill() // what it has not stored by now is gone
}

func (p *process) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.vault.Stop(ctx); err != nil {
		p.note(p.name, "stops: %v", err)
	}
}

// refresh asks the vault for the next generation, as a client does.
func (p *process) refresh(ctx context.Context) error {
	known := p.held.Record
	if known.Generation == 0 {
		known.RefreshToken = authserver.NewSecret("first")
	}
	asked := time.Now()
	held, err := p.vault.Update(ctx, p.grant, known, func(ctx context.Context, held Record) (Record, error) {
		p.spent = true
		answer, err := p.server.refresh(ctx, p, held)
		if err != nil {
			return Record{}, err
		}
		held.RefreshToken = authserver.NewSecret(answer)
		held.ExpiresAt = time.Now().Add(tokenLife)
		return held, nil
	})
	if took := time.Since(asked); took > p.grant.Bound() {
		p.fail("%s: the update took %s", p.name, took)
	}
	if err == nil {
		p.held = held
	}
	return err
}

// server is an authorization server with one grant.
type server struct {
	*run
	grace bool

	mu         sync.Mutex
	valid      string               // the newest refresh token
	superseded map[string]time.Time // the others, by when they were replaced
	revoked    bool
	issued     int
	spends     []*spend
	durable    map[string]bool // the tokens that have been stored

	wasteful    string // a token that was spent twice without need
	unannounced string // a token that was spent without an intent
	mistaken    string // a grant that was taken for dead
	intents     map[*handle]intent
}

// spend is one use of a refresh token, and what came of it.
type spend struct {
	by    *process
	token string
	next  string // empty if it was rejected
	lost  bool   // the answer was
}

// orphaned reports whether nobody has what the server issued.
func (s *server) orphaned(u *spend) bool {
	return u.next != "" && !s.durable[u.next] && (u.lost || u.by.handle.dead())
}

// mayBeLost reports whether a refresh token went with the process that had it, at a
// server that has no grace or while the storage was in trouble.
func (s *server) mayBeLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.careless && s.wasteful != "" && !s.grace || slices.ContainsFunc(s.spends, func(u *spend) bool {
		return s.orphaned(u) && (!s.grace || s.vice != noVice)
	})
}

// refresh takes a refresh token and issues the next.
func (s *server) refresh(ctx context.Context, p *process, held Record) (string, error) {
	token := held.RefreshToken.Reveal()
	loses := s.loses && p.name != "judge"
	if p.handle.dead() || loses && p.random.chance(0.1) {
		return "", &SpendError{NotSent, errors.New("connection refused")}
	}
	time.Sleep(p.random.upTo(time.Second))
	if p.handle.dead() {
		return "", &SpendError{NotSent, errKilled}
	}
	u := s.spend(p, token, held.Generation)
	if s.slow {
		time.Sleep(p.random.upTo(6 * time.Second))
	}
	time.Sleep(p.random.upTo(2 * time.Second))
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.handle.dead() || loses && p.random.chance(0.2) {
		u.lost = true
		return "", &SpendError{Unanswered, errors.New("connection reset")}
	}
	if u.next == "" {
		return "", &SpendError{Rejected, errors.New("invalid_grant")}
	}
	return u.next, nil
}

func (s *server) spend(p *process, token string, generation uint64) *spend {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.intents[p.handle]; !ok || i.Generation != generation {
		s.unannounced = fmt.Sprintf("%s spent generation %d without an intent", p.name, generation)
	}
	for _, earlier := range s.spends {
		if earlier.token == token && earlier.by != p && earlier.next != "" && !s.orphaned(earlier) {
			s.wasteful = fmt.Sprintf("%s spent generation %d, which %s had spent", p.name, generation, earlier.by.name)
		}
	}
	u := &spend{by: p, token: token}
	s.spends = append(s.spends, u)
	replaced, known := s.superseded[token]
	switch {
	case s.revoked:
	case token == s.valid, known && s.grace && time.Since(replaced) < grace:
		s.issued++
		u.next = fmt.Sprintf("token %d", s.issued)
		s.superseded[s.valid] = time.Now()
		if _, known := s.superseded[token]; !known || token == s.valid {
			s.superseded[token] = time.Now()
		}
		s.valid = u.next
		s.note(p.name, "the server takes %s and issues %s", token, u.next)
	default:
		s.revoked = !s.grace && !s.mild
		s.note(p.name, "the server rejects %s", token)
	}
	return u
}

// noteMark checks that a grant which is taken for dead is.
func (s *server) noteMark(p *process, o Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.spends {
		if short(Digest(authserver.NewSecret(u.token))) == o.Digest && u.next != "" && !s.orphaned(u) && !s.revoked {
			s.mistaken = fmt.Sprintf("%s takes generation %d for dead, while %s has the next", p.name, o.Generation, u.by.name)
		}
	}
}

// noteStored looks into what is stored.
func (s *server) noteStored(h *handle, key string, value []byte) {
	object := key[strings.LastIndex(key, "/")+1:]
	s.mu.Lock()
	defer s.mu.Unlock()
	var content openRecord
	var i intent
	switch object {
	case slotA, slotB:
		if _, err := open(Config{Key: s.key}, s.grant.Name, object, value, &content); err == nil {
			s.durable[content.RefreshToken] = true
		}
	case intentObject:
		if _, err := open(Config{Key: s.key}, s.grant.Name, object, value, &i); err == nil && i.State == spending {
			if s.intents == nil {
				s.intents = make(map[*handle]intent)
			}
			s.intents[h] = i
		}
	}
}
