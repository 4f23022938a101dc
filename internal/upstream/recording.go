package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// recording keeps a request body while it streams through, up to a limit. It can
// be played from the start again: what was read comes from the recording, the
// rest from where the body comes from.
//
// An upstream may answer before it has read the body, and its transport then
// waits for its reader to end, or still reads while the next playing begins. So
// the source is read on a goroutine of its own, straight into the recording: a
// reader can leave at any time, and what comes late is kept for the next.
//
// Once the recording is over, the reader gets what is left of it, and all else
// from the source directly.
type recording struct {
	source io.ReadCloser
	limit  int64
	length int64 // of the body; negative if it is not known
	ahead  bool  // read before somebody asks

	mu      sync.Mutex
	changed sync.Cond
	newest  *playing
	chunks  [][]byte // full ones but for the last; nil where given back
	size    int64    // of all that was read
	err     error    // what the source ended with
	filling bool     // the goroutine is at work
	waiting bool     // a reader has had all that was read
	over    bool     // nothing is kept any more
	ended   bool     // nobody reads any more

	first playing   // of this recording
	few   [2][]byte // where chunks begin
}

// newRecording returns a recording of the request's body.
func newRecording(r *http.Request, limit int64) *recording {
	rec := &recording{
		source: r.Body,
		limit:  limit,
		length: r.ContentLength,
		ahead:  r.Trailer == nil, // else net/http writes to it when the body ends
	}
	rec.changed.L = &rec.mu
	rec.chunks = rec.few[:0]
	rec.first.of = rec
	rec.newest = &rec.first
	return rec
}

// playing is one pass over a recording.
type playing struct {
	of     *recording
	pos    int64 // of the whole
	chunk  int   // where that is
	offset int
	closed bool
}

// errPlayedAgain is what readers of an older playing get.
var errPlayedAgain = errors.New("the request is being sent again")

// playAgain starts another pass over the body from its beginning; nil if more has
// gone by than was kept.
func (rec *recording) playAgain() *playing {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.over {
		return nil
	}
	rec.newest = &playing{of: rec}
	rec.waiting = false
	rec.changed.Broadcast()
	return rec.newest
}

// whole reports whether the body can be played from the start again.
func (rec *recording) whole() bool {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return !rec.over
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

// stop ends the recording: the body will not be played again.
func (rec *recording) stop() {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.over = true
	rec.giveBack()
}

// end is stop, and has all readers go.
func (rec *recording) end() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.over, rec.ended = true, true
	rec.giveBack()
	rec.changed.Broadcast()
}

// Read implements io.Reader.
func (p *playing) Read(b []byte) (int, error) {
	rec := p.of
	rec.mu.Lock()
	for {
		switch {
		case p != rec.newest:
			rec.mu.Unlock()
			return 0, errPlayedAgain
		case p.closed || rec.ended:
			rec.mu.Unlock()
			return 0, http.ErrBodyReadAfterClose
		case p.pos < rec.size:
			n := p.next(b)
			rec.mu.Unlock()
			return n, nil
		case rec.err != nil:
			rec.mu.Unlock()
			return 0, rec.err
		case rec.over && !rec.filling:
			rec.mu.Unlock()
			return rec.source.Read(b)
		}
		rec.waiting = true
		if !rec.filling {
			rec.filling = true
			go rec.fill()
		}
		rec.changed.Wait()
	}
}

// next copies what comes next of the recording. The lock is held.
func (p *playing) next(b []byte) int {
	chunk := p.of.chunks[p.chunk]
	n := copy(b, chunk[p.offset:])
	p.pos += int64(n)
	if p.offset += n; p.offset == cap(chunk) {
		p.chunk, p.offset = p.chunk+1, 0
	}
	if p.of.over {
		p.of.giveBack()
	}
	return n
}

// Close implements io.Closer: it lets a reader go. The body itself stays open
// for the next playing, and net/http closes it when the handler has returned.
func (p *playing) Close() error {
	rec := p.of
	rec.mu.Lock()
	p.closed = true
	if p == rec.newest {
		rec.waiting = false
	}
	rec.changed.Broadcast()
	direct := rec.over && !rec.filling
	rec.mu.Unlock()
	if direct {
		return rec.source.Close()
	}
	return nil
}

// fill reads the source for those who wait, and ahead of them as far as it is
// kept.
func (rec *recording) fill() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for rec.err == nil && !rec.over && (rec.waiting || rec.ahead && rec.size < rec.limit) {
		room := rec.room()
		rec.mu.Unlock()
		n, err := rec.source.Read(room)
		rec.mu.Lock()
		last := &rec.chunks[len(rec.chunks)-1]
		*last = (*last)[:len(*last)+n]
		rec.size += int64(n)
		rec.err = err
		rec.over = rec.over || rec.size > rec.limit
		rec.waiting = rec.waiting && n == 0
		rec.changed.Broadcast()
	}
	rec.filling = false
	rec.giveBack()
	rec.changed.Broadcast() // a reader may turn to the source now
}

// chunkSize is as much as transports ask for at a time.
const chunkSize = 32 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// room returns where the next bytes go: not beyond the limit, unless all of it is
// taken and somebody waits for more. The lock is held.
func (rec *recording) room() []byte {
	if n := len(rec.chunks); n == 0 || len(rec.chunks[n-1]) == cap(rec.chunks[n-1]) {
		rec.chunks = append(rec.chunks, rec.newChunk())
	}
	last := rec.chunks[len(rec.chunks)-1]
	room := last[len(last):cap(last)]
	if left := rec.limit - rec.size; left > 0 && left < int64(len(room)) {
		room = room[:left]
	}
	return room
}

// newChunk returns an empty chunk. One for a small body is made to measure, with
// room to read its end into.
func (rec *recording) newChunk() []byte {
	if rec.size == 0 && rec.length >= 0 && rec.length < chunkSize/8 {
		return make([]byte, 0, rec.length+1)
	}
	return chunks.Get().(*[chunkSize]byte)[:0]
}

// giveBack lets go of what nobody will read, once the recording is over. Only the
// goroutine writes to chunks, and to the last one alone: so that one waits for it.
// The lock is held.
func (rec *recording) giveBack() {
	if !rec.over {
		return
	}
	read := rec.newest.chunk
	if rec.ended || rec.newest.pos == rec.size {
		read = len(rec.chunks)
	}
	if rec.filling {
		read = min(read, len(rec.chunks)-1)
	}
	for i, chunk := range rec.chunks[:max(read, 0)] {
		if cap(chunk) == chunkSize {
			chunks.Put((*[chunkSize]byte)(chunk[:chunkSize]))
		}
		rec.chunks[i] = nil
	}
}

// Interface guards
var _ io.ReadCloser = (*playing)(nil)
