package upstreamoauth2

import (
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"sync/atomic"
)

// accounts keep one slot for each account, and for each set of values that a
// request contributes to its token request. They are bounded: those least
// recently used make room for new ones, and idle ones go when their token has
// expired.
type accounts struct {
	cache  *tokenCache
	shards []accountShard

	counts      [3]atomic.Int64 // how many accounts there are of each standing, in all shards
	maxProven   int64
	maxUnproven int // for each shard
	maxWaiting  int64
}

// accountKey stands for everything that a request contributes: a hash, so that
// nothing about an account shows, keyed, so that none can be found by trying.
// Half of SHA-256 is plenty to tell accounts apart.
type accountKey [sha256.Size / 2]byte

// account is a slot in the cache.
type account struct {
	slot
	key      accountKey
	request  []string
	entry    *list.Element // in the shard's list for its standing; nil if evicted
	standing standing
	flying   bool // a token is being fetched: were it evicted now, there might be two fetches
}

// standing is what is known of an account. Those that never had a token are kept
// apart from those that had: a flood of bad ones pushes out other bad ones only.
type standing uint8

const (
	waiting  standing = iota // for its first token
	unproven                 // it has had no token
	proven                   // it has had one
)

// accountShard is one part of the cache, with a lock of its own.
//
// Accounts that wait are not evicted: however many come at a time, as after a
// start, each token that is fetched has its place.
type accountShard struct {
	mu    sync.Mutex
	byKey map[accountKey]*account
	lists [3]list.List // by standing, most recently used first
}

const (
	defaultMaxAccounts = 10_000

	// Shards are many enough for the processors and large enough for hashes to
	// fill them evenly.
	maxAccountShards    = 64
	minAccountsPerShard = 128

	// How many accounts may wait for their first token at a time, whatever the
	// limit of those that are held.
	minWaiting = 1024
	maxWaiting = 4096
)

func newAccounts(cache *tokenCache, limit int) *accounts {
	shards := max(1, min(maxAccountShards, limit/minAccountsPerShard))
	a := &accounts{
		cache:       cache,
		shards:      make([]accountShard, shards),
		maxProven:   int64(limit),
		maxUnproven: max(8, limit/shards/4),
		maxWaiting:  int64(min(max(minWaiting, limit), maxWaiting)),
	}
	for i := range a.shards {
		a.shards[i].byKey = make(map[accountKey]*account)
	}
	return a
}

// processKey keeps hashes from being compared across processes, or found by
// trying.
var processKey = func() []byte {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	return key
}()

// keyOf hashes the values that a request contributes, each with its length, so
// that no two lists of values look alike.
func keyOf(values []string) accountKey {
	var room [512]byte
	b := append(room[:0], processKey...)
	for _, v := range values {
		b = binary.AppendUvarint(b, uint64(len(v)))
		b = append(b, v...)
	}
	sum := sha256.Sum256(b)
	return accountKey(sum[:len(accountKey{})])
}

// slot returns the slot for those values, an empty one if they are new. The caller
// asks it for a token at once.
func (a *accounts) slot(values []string) *slot {
	key := keyOf(values)
	shard := a.shard(key)

	shard.mu.Lock()
	defer shard.mu.Unlock()
	if known, ok := shard.byKey[key]; ok {
		shard.lists[known.standing].MoveToFront(known.entry)
		return &known.slot
	}
	added := &account{key: key, request: values, standing: waiting}
	added.slot.cache, added.slot.account = a.cache, added
	shard.byKey[key] = added
	added.entry = shard.lists[waiting].PushFront(added)
	a.counts[waiting].Add(1)
	return &added.slot
}

// full reports whether more accounts wait for their first token than may.
func (a *accounts) full() bool { return a.counts[waiting].Load() > a.maxWaiting }

// wait notes that a fetch begins for an account.
func (a *accounts) wait(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	acc.flying = true
	if acc.standing == unproven {
		a.move(shard, acc, waiting)
	}
}

// fail notes that an account's fetch failed, or that none was made. If it waited
// for its first token, it is one of those that make room for each other now.
func (a *accounts) fail(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	acc.flying = false
	var oldest *account
	if acc.standing == waiting && a.move(shard, acc, unproven) && shard.lists[unproven].Len() > a.maxUnproven {
		oldest = shard.lists[unproven].Back().Value.(*account)
		a.remove(shard, oldest)
	}
	shard.mu.Unlock()
	oldest.halt()
}

// prove notes that an account got a token.
func (a *accounts) prove(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	acc.flying = false
	added := acc.standing != proven && a.move(shard, acc, proven)
	shard.mu.Unlock()
	for added && a.counts[proven].Load() > a.maxProven && a.makeRoom(acc) {
	}
}

// move gives an account another standing. It reports whether the account is still
// held. The shard's lock is held.
func (a *accounts) move(shard *accountShard, acc *account, to standing) bool {
	if acc.entry == nil {
		return false
	}
	shard.lists[acc.standing].Remove(acc.entry)
	a.counts[acc.standing].Add(-1)
	acc.standing = to
	acc.entry = shard.lists[to].PushFront(acc)
	a.counts[to].Add(1)
	return true
}

// makeRoom evicts a proven account: the least recently used one among those next
// to the newcomer, which over many accounts is as good as among all. It reports
// whether there was one.
func (a *accounts) makeRoom(newcomer *account) bool {
	first := a.index(newcomer.key)
	for i := range a.shards {
		if oldest := a.removeOldest(&a.shards[(first+i)%len(a.shards)], newcomer); oldest != nil {
			oldest.halt()
			return true
		}
	}
	return false
}

// removeOldest takes the least recently used proven account out of a shard; nil if
// there is none but the newcomer and those that are being renewed.
func (a *accounts) removeOldest(shard *accountShard, newcomer *account) *account {
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for entry := shard.lists[proven].Back(); entry != nil; entry = entry.Prev() {
		if oldest := entry.Value.(*account); oldest != newcomer && !oldest.flying {
			a.remove(shard, oldest)
			return oldest
		}
	}
	return nil
}

// drop evicts an account that is of no use any more, unless somebody has come back
// for it.
func (a *accounts) drop(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	idle := !acc.flying
	if idle {
		a.remove(shard, acc)
	}
	shard.mu.Unlock()
	if idle {
		acc.halt()
	}
}

// stop ends the work for all accounts.
func (a *accounts) stop() {
	for i := range a.shards {
		shard := &a.shards[i]
		shard.mu.Lock()
		for _, acc := range shard.byKey {
			defer acc.slot.stop()
		}
		shard.mu.Unlock()
	}
}

func (a *accounts) index(key accountKey) int {
	return int(binary.LittleEndian.Uint32(key[:]) % uint32(len(a.shards)))
}

func (a *accounts) shard(key accountKey) *accountShard { return &a.shards[a.index(key)] }

// remove evicts an account. It is halted when the shard's lock, which is held
// here, has been released: its slot takes the two in the other order.
func (a *accounts) remove(shard *accountShard, acc *account) {
	if acc.entry == nil {
		return
	}
	shard.lists[acc.standing].Remove(acc.entry)
	acc.entry = nil
	delete(shard.byKey, acc.key)
	a.counts[acc.standing].Add(-1)
}

// halt ends the work for an evicted account. Requests that wait for its fetch
// still get their token.
func (acc *account) halt() {
	if acc != nil {
		acc.slot.forget()
	}
}

// name tells accounts apart in the log.
func (acc *account) name() string { return hex.EncodeToString(acc.key[:4]) }
