package config

import (
	"context"
	"crypto/sha256"
	"sync"
)

// files know what a client's files held when they were last read.
type files struct {
	mu    sync.Mutex
	state map[string][sha256.Size]byte // by path
}

func newFiles() *files { return &files{state: make(map[string][sha256.Size]byte)} }

// read reads a file and remembers what it held, or why it could not be read.
func (f *files) read(ctx context.Context, path string) ([]byte, error) {
	content, err := readFile(ctx, path)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[path] = stateOf(content, err)
	return content, err
}

func stateOf(content []byte, err error) [sha256.Size]byte {
	if err != nil {
		return sha256.Sum256([]byte("error " + err.Error()))
	}
	return sha256.Sum256(append([]byte("content "), content...))
}

// Changed reports whether any of the client's files holds something else than when it
// was last read: a request that failed may succeed by now.
func (r *Resolver) Changed(ctx context.Context) bool {
	r.files.mu.Lock()
	paths := sortedKeys(r.files.state)
	r.files.mu.Unlock()
	for _, path := range paths {
		now := stateOf(readFile(ctx, path))
		r.files.mu.Lock()
		before := r.files.state[path]
		r.files.mu.Unlock()
		if now != before {
			return true
		}
	}
	return false
}
