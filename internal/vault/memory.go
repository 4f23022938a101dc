package vault

import (
	"context"
	"crypto/rand"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
)

// InMemory returns a config that keeps grants as long as the process lives, and
// seals them with a key that nobody knows.
func InMemory() Config {
	var secret [keySize]byte
	_, _ = rand.Read(secret[:]) // never fails
	return Config{Storage: &memory{objects: make(map[string][]byte)}, Key: newKey(secret), Alone: true}
}

// memory is a storage in the memory of this process, where a vault takes turns
// anyway: its locks have nothing to do.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func (*memory) Lock(context.Context, string) error   { return nil }
func (*memory) Unlock(context.Context, string) error { return nil }

func (m *memory) Store(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = slices.Clone(value)
	return nil
}

func (m *memory) Load(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.objects[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(value), nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

func (m *memory) Exists(ctx context.Context, key string) bool {
	_, err := m.Load(ctx, key)
	return err == nil
}

func (m *memory) List(_ context.Context, path string, _ bool) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for key := range m.objects {
		if strings.HasPrefix(key, path+"/") {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (m *memory) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{Key: key, IsTerminal: true}, nil
}

// Interface guards
var _ certmagic.Storage = (*memory)(nil)
