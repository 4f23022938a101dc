package tokencache

import "time"

// Inherit takes over the tokens of a cache whose settings were read anew: a reload
// may find another secret in its file, or half of one that is just being written.
// They are in their margin here, so that requests wait for a token that comes of
// the new settings; but while none can be had, the old one is still good.
func (c *Cache) Inherit(from *Cache) {
	if c.accounts == nil {
		c.only.inherit(&from.only)
		return
	}
	for _, acc := range from.accounts.all() {
		if acc.held.Load().phase(time.Now()) == absent {
			continue
		}
		heir := c.accounts.entry(acc.values)
		heir.inherit(&acc.Entry)
		c.accounts.ended(heir.account, nil, nil)
	}
}

func (e *Entry) inherit(from *Entry) {
	held, now := from.held.Load(), time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if held.phase(now) == absent || e.held.Load() != nil {
		return
	}
	e.held.Store(&heldToken{Token: held.Token, renewAt: now, marginAt: now, expires: held.expires})
	e.schedule(held.expires)
}
