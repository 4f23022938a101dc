package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// recordingOf returns a recording of what the source yields. The length is -1 if
// it is not known.
func recordingOf(source io.ReadCloser, length, limit int64) *recording {
	return newRecording(&http.Request{Body: source, ContentLength: length}, limit)
}

// source is a body that notes when it is closed.
type source struct {
	io.Reader
	closed bool
}

func (s *source) Close() error {
	s.closed = true
	return nil
}

// pattern returns n bytes that tell their place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func wantBody(t *testing.T, what string, body io.Reader, want []byte) {
	t.Helper()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v; want the %d bytes of the body", what, len(got), err, len(want))
	}
}

func TestBodyPlaysAgain(t *testing.T) {
	readers := map[string]func(io.Reader) io.Reader{
		"as it comes":        func(r io.Reader) io.Reader { return r },
		"byte by byte":       iotest.OneByteReader,
		"the end with bytes": iotest.DataErrReader,
		"in halves":          iotest.HalfReader,
	}
	for name, reader := range readers {
		for _, size := range []int{0, 1, 4095, 4096, chunkSize - 1, chunkSize, chunkSize + 1, 64<<10 - 1, 64 << 10} {
			for _, length := range []int64{int64(size), -1} {
				t.Run(fmt.Sprintf("%d bytes %s, length %d", size, name, length), func(t *testing.T) {
					body := pattern(size)
					rec := recordingOf(io.NopCloser(reader(bytes.NewReader(body))), length, 64<<10)
					wantBody(t, "at first", &rec.first, body)
					if !rec.finished() {
						t.Error("the end of the body was not noticed")
					}
					for range 2 {
						again := rec.playAgain()
						if again == nil {
							t.Fatal("the body cannot be played again")
						}
						wantBody(t, "again", again, body)
					}
				})
			}
		}
	}
}

func TestLongBodyIsPlayedOnce(t *testing.T) {
	for _, limit := range []int64{0, 1, 4096, chunkSize, 64 << 10, 100_000} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			body := pattern(int(limit) + 1)
			rec := recordingOf(io.NopCloser(bytes.NewReader(body)), -1, limit)
			wantBody(t, "at first", &rec.first, body)
			if rec.whole() || rec.playAgain() != nil {
				t.Error("a body beyond the limit can be played again")
			}
		})
	}
}

// TestBodyIsNotReadBeyondTheLimitInAdvance: what nobody asked for does not make
// a body too long.
func TestBodyIsNotReadBeyondTheLimitInAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := pattern(100)
		rec := recordingOf(io.NopCloser(iotest.OneByteReader(bytes.NewReader(body))), -1, 10)
		if _, err := rec.first.Read(make([]byte, 50)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if rec.size != 10 {
			t.Errorf("%d bytes were read, want 10, the limit", rec.size)
		}
		again := rec.playAgain()
		if again == nil {
			t.Fatal("the body cannot be played again")
		}
		wantBody(t, "again", again, body)
	})
}

// TestTrailersComeWhenTheReaderAsks: net/http fills them in while it reads the
// end of the body.
func TestTrailersComeWhenTheReaderAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &http.Request{Body: io.NopCloser(iotest.OneByteReader(strings.NewReader("body"))), ContentLength: -1, Trailer: http.Header{"Sum": nil}}
		rec := newRecording(r, 100)
		_, _ = rec.first.Read(make([]byte, 100))
		synctest.Wait()
		if rec.size != 1 {
			t.Errorf("%d bytes were read, want the one that was asked for", rec.size)
		}
		wantBody(t, "the rest", &rec.first, []byte("ody"))
	})
}

func TestBodyThatBreaksOff(t *testing.T) {
	broken := errors.New("the caller hung up")
	rec := recordingOf(io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))), 8, 100)
	for _, playing := range []func() *playing{func() *playing { return &rec.first }, rec.playAgain} {
		if got, err := io.ReadAll(playing()); string(got) != "half" || err != broken {
			t.Errorf("the body reads as %q, %v", got, err)
		}
	}
	if rec.finished() {
		t.Error("half a body is taken for a whole one")
	}
}

// read is a Read on a goroutine of its own.
type read struct {
	done  chan struct{}
	bytes string
	err   error
}

func reading(r io.Reader) *read {
	res := &read{done: make(chan struct{})}
	go func() {
		b := make([]byte, 100)
		n, err := r.Read(b)
		res.bytes, res.err = string(b[:n]), err
		close(res.done)
	}()
	return res
}

// want waits until all goroutines do, and compares.
func (r *read) want(t *testing.T, bytes string, err error) {
	t.Helper()
	synctest.Wait()
	select {
	case <-r.done:
		if r.bytes != bytes || r.err != err {
			t.Errorf("the reader gets %q, %v; want %q, %v", r.bytes, r.err, bytes, err)
		}
	default:
		t.Error("the reader waits")
	}
}

func (r *read) wantWaiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-r.done:
		t.Errorf("the reader gets %q, %v; want it to wait", r.bytes, r.err)
	default:
	}
}

func TestReaderLeavesWhileTheCallerIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, send := io.Pipe()
		src := &source{Reader: body}
		rec := recordingOf(src, 10, 100)

		first := reading(&rec.first)
		first.wantWaiting(t)
		_ = rec.first.Close()
		first.want(t, "", http.ErrBodyReadAfterClose)
		if src.closed {
			t.Error("the body was closed though it may be played again")
		}
		if n, err := rec.first.Read(make([]byte, 1)); n != 0 || err != http.ErrBodyReadAfterClose {
			t.Errorf("a closed playing reads %d, %v", n, err)
		}

		second := reading(rec.playAgain())
		second.wantWaiting(t)
		_, _ = io.WriteString(send, "late") // belongs to the body: it was awaited by the first
		second.want(t, "late", nil)
		_ = send.Close()
		wantBody(t, "the body", rec.playAgain(), []byte("late"))
	})
}

func TestReaderOfTheFirstAttemptGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, send := io.Pipe()
		rec := recordingOf(body, 10, 100)
		first := reading(&rec.first)
		first.wantWaiting(t)
		again := rec.playAgain()
		first.want(t, "", errPlayedAgain)
		_ = rec.first.Close() // late; it concerns nobody

		second := reading(again)
		second.wantWaiting(t)
		_, _ = io.WriteString(send, "body")
		second.want(t, "body", nil)
		_ = send.Close()
		wantBody(t, "the rest", again, nil)
		if _, err := rec.first.Read(make([]byte, 1)); err != errPlayedAgain {
			t.Errorf("the older playing reads %v", err)
		}
	})
}

// held is how many chunks a recording holds.
func (rec *recording) held() (n int) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, chunk := range rec.chunks {
		if chunk != nil {
			n++
		}
	}
	return n
}

func TestNothingIsKeptOnceTheAnswerIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := pattern(3*chunkSize + 10)
		src := &source{Reader: bytes.NewReader(body)}
		rec := recordingOf(src, -1, 1<<20)
		got := make([]byte, chunkSize+5)
		if _, err := io.ReadFull(&rec.first, got); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := rec.held(); n != 4 {
			t.Errorf("%d chunks are held before, want 4", n)
		}
		rec.stop()
		if n := rec.held(); n != 3 {
			t.Errorf("%d chunks are held of what has not been read, want 3", n)
		}
		rest, err := io.ReadAll(&rec.first)
		if got = append(got, rest...); err != nil || !bytes.Equal(got, body) {
			t.Errorf("the body reads as %d bytes, %v", len(got), err)
		}
		if n := rec.held(); n != 0 {
			t.Errorf("%d chunks are held in the end", n)
		}
		if rec.whole() || rec.playAgain() != nil {
			t.Error("what is not kept can be played again")
		}
	})
}

func TestBodyComesStraightOnceTheAnswerIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, send := io.Pipe()
		src := &source{Reader: body}
		rec := recordingOf(src, -1, 1<<20)
		first := reading(&rec.first)
		_, _ = io.WriteString(send, "one")
		first.want(t, "one", nil)

		rec.stop() // the goroutine still reads, ahead
		second := reading(&rec.first)
		second.wantWaiting(t)
		_, _ = io.WriteString(send, "two")
		second.want(t, "two", nil)
		if n := rec.held(); n != 0 || rec.filling {
			t.Errorf("%d chunks are held; a goroutine reads: %v", n, rec.filling)
		}

		third := reading(&rec.first)
		_, _ = io.WriteString(send, "three")
		third.want(t, "three", nil)
		if n := rec.held(); n != 0 || rec.filling {
			t.Errorf("%d chunks are held; a goroutine reads: %v", n, rec.filling)
		}
		if _ = rec.first.Close(); !src.closed {
			t.Error("the body was not closed though nobody reads it again")
		}
	})
}

// TestCloseDoesNotWaitForTheCaller, as net/http's body does while it is read.
func TestCloseDoesNotWaitForTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, send := io.Pipe()
		src := &source{Reader: body}
		rec := recordingOf(src, -1, 100)
		first := reading(&rec.first)
		first.wantWaiting(t)
		rec.stop()
		_ = rec.first.Close()
		first.want(t, "", http.ErrBodyReadAfterClose)
		if src.closed {
			t.Error("the body was closed while it is read")
		}
		_ = send.Close()
	})
}

func TestNobodyReadsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, send := io.Pipe()
		rec := recordingOf(body, -1, 1<<20)
		first := reading(&rec.first)
		_, _ = io.WriteString(send, "one")
		first.want(t, "one", nil)
		second := reading(&rec.first)
		second.wantWaiting(t)

		rec.end()
		second.want(t, "", http.ErrBodyReadAfterClose)
		if n := rec.held(); n != 1 {
			t.Errorf("%d chunks are held, want the one that is being written to", n)
		}
		_, _ = io.WriteString(send, "two")
		synctest.Wait()
		if n := rec.held(); n != 0 || rec.filling {
			t.Errorf("%d chunks are held; a goroutine reads: %v", n, rec.filling)
		}
		reading(&rec.first).want(t, "", http.ErrBodyReadAfterClose)
		_ = send.Close()
	})
}

// TestChunksAreNeverShared: bodies of many requests that end at any moment keep
// apart.
func TestChunksAreNeverShared(t *testing.T) {
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			for i := range 200 {
				size := (worker*7919 + i*104729) % (3 * chunkSize)
				body := bytes.Repeat([]byte{byte(worker*16 + i)}, size)
				rec := recordingOf(io.NopCloser(iotest.HalfReader(bytes.NewReader(body))), -1, 64<<10)
				playing := &rec.first
				got := make([]byte, size)
				n, _ := io.ReadFull(playing, got[:size/2])
				switch i % 4 {
				case 0:
					if again := rec.playAgain(); again != nil {
						playing, n = again, 0
					}
				case 1:
					rec.stop()
				case 2:
					go rec.end()
				}
				rest, err := io.ReadFull(playing, got[n:])
				if i%4 == 2 && err == http.ErrBodyReadAfterClose {
					n, err = n+rest, nil
					got = got[:n]
				}
				if err != nil || !bytes.Equal(got, body[:len(got)]) {
					t.Errorf("a body of %d bytes comes wrong, %v", size, err)
				}
				rec.end()
			}
		})
	}
	group.Wait()
}
