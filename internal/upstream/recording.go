package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// recording keeps what is read of a request body as it streams through, up to a
// limit. It can be played from the start again: what was read comes from the
// recording, the rest from where the body comes from.
//
// An upstream may answer before it has read the body, and its transport then
// waits for its reader to end, or still reads while the next playing begins. So
// the source is read on a goroutine of its own: a reader can leave, and what was
// just being read is kept for the next.
type recording struct {
	source io.ReadCloser
	limit  int64

	mu       sync.Mutex
	newest   *playing
	kept     []byte
	overflow bool          // more has gone by than is kept
	err      error         // what the source ended with
	reading  chan struct{} // closes when the read in progress has ended; nil if there is none
}

// playing is one pass over a recording.
type playing struct {
	of     *recording
	pos    int
	closed chan struct{}
	close  sync.Once
}

// errPlayedAgain is what readers of an older playing get.
var errPlayedAgain = errors.New("the request is being sent again")

// play starts a pass over the body from its beginning; nil if more has gone by
// than was kept.
func (rec *recording) play() *playing {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.overflow {
		return nil
	}
	rec.newest = &playing{of: rec, closed: make(chan struct{})}
	return rec.newest
}

// whole reports whether the body can be played from the start again.
func (rec *recording) whole() bool {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return !rec.overflow
}

// finished reports whether the source has come to its end.
func (rec *recording) finished() bool {
	if rec == nil {
		return true
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.err == io.EOF
}

// Read implements io.Reader.
func (p *playing) Read(b []byte) (int, error) {
	rec := p.of
	for {
		rec.mu.Lock()
		switch {
		case p != rec.newest:
			rec.mu.Unlock()
			return 0, errPlayedAgain
		case p.pos < len(rec.kept):
			n := copy(b, rec.kept[p.pos:])
			p.pos += n
			rec.mu.Unlock()
			return n, nil
		case rec.err != nil:
			rec.mu.Unlock()
			return 0, rec.err
		case rec.overflow: // nothing to keep any more
			rec.kept, p.pos = nil, 0
			rec.mu.Unlock()
			return rec.source.Read(b)
		}
		if rec.reading == nil {
			rec.reading = make(chan struct{})
			go rec.readMore(rec.reading, make([]byte, len(b)))
		}
		more := rec.reading
		rec.mu.Unlock()
		select {
		case <-more:
		case <-p.closed:
			return 0, http.ErrBodyReadAfterClose
		}
	}
}

// readMore reads from the source once and keeps what comes.
func (rec *recording) readMore(done chan struct{}, b []byte) {
	n, err := rec.source.Read(b)
	rec.mu.Lock()
	rec.kept = append(rec.kept, b[:n]...)
	rec.overflow = int64(len(rec.kept)) > rec.limit
	rec.err = err
	rec.reading = nil
	rec.mu.Unlock()
	close(done)
}

// Close implements io.Closer: it lets a reader go. The body itself stays open
// for the next playing, and net/http closes it when the handler has returned.
func (p *playing) Close() error {
	p.close.Do(func() { close(p.closed) })
	if !p.of.whole() {
		return p.of.source.Close()
	}
	return nil
}

// Interface guards
var _ io.ReadCloser = (*playing)(nil)
