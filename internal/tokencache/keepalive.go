package tokencache

import "time"

// KeepAlive has the tokens renewed that are older than that, whether or not anybody
// uses them: what they are made of may end if nobody does.
func (c *Cache) KeepAlive(age time.Duration) {
	for _, e := range c.entries() {
		e.keepAlive(age)
	}
}

func (e *Entry) keepAlive(age time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held, now := e.held.Load(), time.Now()
	if held != nil && reached(held.RequestedAt.Add(age), now) && e.failures == 0 && !e.stopped {
		e.fetchNow()
	}
}
