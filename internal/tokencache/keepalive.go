package tokencache

import "time"

// KeepAlive has the tokens renewed that are older than that, whether or not anybody
// uses them: what they are made of may end if nobody does. It is asked now and then,
// and each time tries again what failed and nobody else does.
func (c *Cache) KeepAlive(age time.Duration) {
	for _, e := range c.entries() {
		e.keepAlive(age)
	}
}

func (e *Entry) keepAlive(age time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held, now := e.held.Load(), time.Now()
	retried := e.failures > 0 && !e.dormant // by the timer
	if held != nil && reached(held.RequestedAt.Add(age), now) && !retried && !e.stopped {
		e.fetchNow()
	}
}
