package terminal

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// frames are what turns while somebody waits.
var frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

const frameTime = 120 * time.Millisecond

// Is reports whether f is a terminal.
func Is(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Countdown says what is waited for, and on a terminal how much time is left, until
// stop is called.
func Countdown(f *os.File, what string, end time.Time) (stop func()) {
	if !Is(f) {
		_, _ = fmt.Fprintf(f, "%s\n", what)
		return func() {}
	}
	done := make(chan struct{})
	var turning sync.WaitGroup
	turning.Go(func() {
		ticker := time.NewTicker(frameTime)
		defer ticker.Stop()
		for i := 0; ; i++ {
			_, _ = fmt.Fprintf(f, "\r\x1b[K%c %s, %s left", frames[i%len(frames)], what, left(end))
			select {
			case <-ticker.C:
			case <-done:
				_, _ = fmt.Fprint(f, "\r\x1b[K")
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		turning.Wait()
	})
}

// left is the time until end, in minutes and seconds.
func left(end time.Time) string {
	seconds := max(int(time.Until(end).Round(time.Second).Seconds()), 0)
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}
