package tokencache

import (
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// accounts keep one entry for each account, and for each set of values that a
// request contributes to its token request. They are bounded: those least
// recently used are evicted for new ones, and idle ones when their token has
// expired.
type accounts struct {
	cache  *Cache
	shards []accountShard

	counts     [3]atomic.Int64 // how many accounts there are of each standing, in all shards
	maxGood    int64
	maxFailed  int // for each shard
	maxPending int64
}

// accountKey stands for everything that a request contributes: a hash, so that
// nothing about an account shows, keyed, so that none can be found by trying.
// Half of SHA-256 is plenty to tell accounts apart.
type accountKey [sha256.Size / 2]byte

// account is an entry among others.
type account struct {
	Entry
	key      accountKey
	values   []string
	element  *list.Element // in the shard's list for its standing; nil if evicted
	standing standing
	fetching *call // not nil: were it evicted now, there might be two fetches for it
}

// standing says whether an account ever had a token. A flood of accounts that
// never get one evicts only its own kind.
type standing uint8

const (
	pending standing = iota // it waits for its first token
	failed                  // it waited, and got none
	good                    // it has had one
)

// accountShard is one part of the accounts, with a lock of its own.
//
// Accounts waiting for their first token are not evicted, so every token fetched
// is kept.
type accountShard struct {
	mu    sync.Mutex
	byKey map[accountKey]*account
	lists [3]list.List // by standing, most recently used first
}

const (
	// Shards are many enough for the processors and large enough for hashes to
	// fill them evenly.
	maxAccountShards    = 64
	minAccountsPerShard = 128

	// How many accounts may wait for their first token at a time, whatever the
	// limit of those that are held.
	minPending = 1024
	maxPending = 4096
)

func newAccounts(cache *Cache, limit int) *accounts {
	shards := max(1, min(maxAccountShards, limit/minAccountsPerShard))
	a := &accounts{
		cache:      cache,
		shards:     make([]accountShard, shards),
		maxGood:    int64(limit),
		maxFailed:  max(8, limit/shards/4),
		maxPending: int64(min(max(minPending, limit), maxPending)),
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

// entry returns the entry for those values, a new one if they are new.
func (a *accounts) entry(values []string) *Entry {
	key := keyOf(values)
	shard := a.shard(key)

	shard.mu.Lock()
	defer shard.mu.Unlock()
	if known, ok := shard.byKey[key]; ok {
		shard.lists[known.standing].MoveToFront(known.element)
		return &known.Entry
	}
	added := &account{key: key, values: values, standing: pending}
	added.Entry.cache, added.Entry.account = a.cache, added
	shard.byKey[key] = added
	added.element = shard.lists[pending].PushFront(added)
	a.counts[pending].Add(1)
	return &added.Entry
}

// known returns the entry for those values, nil if there is none.
func (a *accounts) known(values []string) *Entry {
	key := keyOf(values)
	shard := a.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if known, ok := shard.byKey[key]; ok {
		return &known.Entry
	}
	return nil
}

// full reports whether too many accounts are waiting for a first token.
func (a *accounts) full() bool { return a.counts[pending].Load() > a.maxPending }

// began notes that a fetch begins for an account.
func (a *accounts) began(acc *account, c *call) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	acc.fetching = c
	if acc.standing == failed {
		a.move(shard, acc, pending)
	}
}

// ended notes how an account's fetch went.
func (a *accounts) ended(acc *account, c *call, err error) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	if acc.fetching == c { // and no other one has begun meanwhile
		acc.fetching = nil
	}
	added := err == nil && acc.standing != good && a.move(shard, acc, good)
	shard.mu.Unlock()
	for added && a.counts[good].Load() > a.maxGood && a.evictOldest(acc) {
	}
	if err != nil {
		a.refused(acc)
	}
}

// refused notes that an account has no token and waits for none. From now on it is
// one of those that are evicted for each other.
func (a *accounts) refused(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	var oldest *account
	if acc.standing == pending && acc.fetching == nil && a.move(shard, acc, failed) && shard.lists[failed].Len() > a.maxFailed {
		oldest = shard.lists[failed].Back().Value.(*account)
		a.evict(shard, oldest)
	}
	shard.mu.Unlock()
	if oldest != nil {
		oldest.discard()
	}
}

// move gives an account another standing. It reports whether the account is still
// held. The shard's lock is held.
func (a *accounts) move(shard *accountShard, acc *account, to standing) bool {
	if acc.element == nil {
		return false
	}
	shard.lists[acc.standing].Remove(acc.element)
	a.counts[acc.standing].Add(-1)
	acc.standing = to
	acc.element = shard.lists[to].PushFront(acc)
	a.counts[to].Add(1)
	return true
}

// evictOldest evicts a good account: the least recently used one among those next
// to the newcomer, which over many accounts is as good as among all. It reports
// whether there was one.
func (a *accounts) evictOldest(newcomer *account) bool {
	first := a.index(newcomer.key)
	for i := range a.shards {
		shard := &a.shards[(first+i)%len(a.shards)]
		if oldest := a.evictOldestOf(shard, newcomer); oldest != nil {
			oldest.discard()
			return true
		}
	}
	return false
}

// evictOldestOf evicts the least recently used good account of a shard; nil if
// there is none but the newcomer and those that are being renewed.
func (a *accounts) evictOldestOf(shard *accountShard, newcomer *account) *account {
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for element := shard.lists[good].Back(); element != nil; element = element.Prev() {
		if oldest := element.Value.(*account); oldest != newcomer && oldest.fetching == nil {
			a.evict(shard, oldest)
			return oldest
		}
	}
	return nil
}

// evictIdle evicts an account that is of no use any more, unless somebody has come
// back for it.
func (a *accounts) evictIdle(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	idle := acc.fetching == nil
	if idle {
		a.evict(shard, acc)
	}
	shard.mu.Unlock()
	if idle {
		acc.discard()
	}
}

// evict takes an account out of its shard, whose lock is held. The caller discards
// it when the lock has been released: an entry takes its own lock before a shard's.
func (a *accounts) evict(shard *accountShard, acc *account) {
	if acc.element == nil {
		return
	}
	shard.lists[acc.standing].Remove(acc.element)
	acc.element = nil
	delete(shard.byKey, acc.key)
	a.counts[acc.standing].Add(-1)
}

// all returns the accounts that are held. An entry's lock is taken before a
// shard's, so the caller goes through them without the latter.
func (a *accounts) all() []*account {
	var all []*account
	for i := range a.shards {
		shard := &a.shards[i]
		shard.mu.Lock()
		all = slices.AppendSeq(all, maps.Values(shard.byKey))
		shard.mu.Unlock()
	}
	return all
}

func (a *accounts) index(key accountKey) int {
	return int(binary.LittleEndian.Uint32(key[:]) % uint32(len(a.shards)))
}

func (a *accounts) shard(key accountKey) *accountShard { return &a.shards[a.index(key)] }

// name tells accounts apart in the log.
func (acc *account) name() string { return hex.EncodeToString(acc.key[:4]) }
