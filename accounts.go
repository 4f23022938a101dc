package upstreamoauth2

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
)

// accounts keep one slot for each account, and for each set of values that a
// request contributes to its token request. They are bounded: those least
// recently used make room for new ones, and idle ones go when their token has
// expired.
type accounts struct {
	cache  *tokenCache
	shards []accountShard

	maxProven   int // for each shard
	maxUnproven int
}

// accountKey stands for everything that a request contributes: a hash, so that
// nothing about an account shows, keyed, so that none can be found by trying.
// Half of SHA-256 is plenty to tell accounts apart.
type accountKey [sha256.Size / 2]byte

// account is a slot in the cache.
type account struct {
	slot
	key     accountKey
	request []string
	entry   *list.Element // in one of the shard's lists; nil if evicted
	proven  bool
}

// accountShard is one part of the cache, with a lock of its own.
//
// Accounts that never had a token are kept apart from those that had: a flood
// of bad ones pushes out other bad ones only.
type accountShard struct {
	mu       sync.Mutex
	byKey    map[accountKey]*account
	proven   list.List // most recently used first
	unproven list.List
}

const (
	defaultMaxAccounts = 10_000

	// Shards are many enough for the processors and large enough for hashes to
	// fill them evenly.
	maxAccountShards    = 64
	minAccountsPerShard = 128
)

func newAccounts(cache *tokenCache, limit int) *accounts {
	shards := max(1, min(maxAccountShards, limit/minAccountsPerShard))
	a := &accounts{cache: cache, shards: make([]accountShard, shards), maxProven: max(1, limit/shards)}
	a.maxUnproven = max(8, a.maxProven/4)
	for i := range a.shards {
		a.shards[i].byKey = make(map[accountKey]*account)
	}
	return a
}

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

// slot returns the slot for those values, an empty one if they are new.
func (a *accounts) slot(values []string) *slot {
	key := keyOf(values)
	shard := a.shard(key)

	shard.mu.Lock()
	if known, ok := shard.byKey[key]; ok {
		shard.listOf(known).MoveToFront(known.entry)
		shard.mu.Unlock()
		return &known.slot
	}
	added := &account{key: key, request: values}
	added.slot.cache, added.slot.account = a.cache, added
	shard.byKey[key] = added
	added.entry = shard.unproven.PushFront(added)
	evicted := shard.shrink(&shard.unproven, a.maxUnproven)
	shard.mu.Unlock()

	evicted.halt()
	return &added.slot
}

// prove moves an account that got its first token to the proven ones.
func (a *accounts) prove(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	var evicted *account
	if acc.entry != nil && !acc.proven {
		shard.unproven.Remove(acc.entry)
		acc.proven = true
		acc.entry = shard.proven.PushFront(acc)
		evicted = shard.shrink(&shard.proven, a.maxProven)
	}
	shard.mu.Unlock()
	evicted.halt()
}

// drop evicts an account that is of no use any more.
func (a *accounts) drop(acc *account) {
	shard := a.shard(acc.key)
	shard.mu.Lock()
	shard.remove(acc)
	shard.mu.Unlock()
	acc.halt()
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

func (a *accounts) shard(key accountKey) *accountShard {
	return &a.shards[binary.LittleEndian.Uint64(key[:])%uint64(len(a.shards))]
}

func (s *accountShard) listOf(acc *account) *list.List {
	if acc.proven {
		return &s.proven
	}
	return &s.unproven
}

// shrink evicts the least recently used account of a list that has become too
// long. It is halted outside the lock, which its slot takes in the other order.
func (s *accountShard) shrink(l *list.List, most int) *account {
	if l.Len() <= most {
		return nil
	}
	oldest := l.Back().Value.(*account)
	s.remove(oldest)
	return oldest
}

func (s *accountShard) remove(acc *account) {
	if acc.entry == nil {
		return
	}
	s.listOf(acc).Remove(acc.entry)
	acc.entry = nil
	delete(s.byKey, acc.key)
}

// halt ends the work for an evicted account. Requests that wait for its fetch
// still get their token.
func (acc *account) halt() {
	if acc != nil {
		acc.slot.forget()
	}
}

// inputs returns what the account's requests contribute.
func (acc *account) inputs() []string {
	if acc == nil {
		return nil
	}
	return acc.request
}

// name tells accounts apart in the log.
func (acc *account) name() string { return hex.EncodeToString(acc.key[:4]) }
