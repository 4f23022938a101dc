package keeping

import (
	"context"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() {
	caddy.RegisterModule(brittleModule{})
}

// brittleStorage is a storage in memory that fails as a test wants it to. In a
// Caddyfile it is "storage brittle <name>".
type brittleStorage struct {
	mu      sync.Mutex
	objects map[string][]byte
	trouble func(operation, key string) error
}

// newBrittleStorage makes one for the Caddyfiles of this test.
func newBrittleStorage(t *testing.T, name string) *brittleStorage {
	s := &brittleStorage{objects: make(map[string][]byte)}
	brittleStorages.Store(name, s)
	t.Cleanup(func() { brittleStorages.Delete(name) })
	return s
}

var brittleStorages sync.Map // name -> *brittleStorage

// fails has operations fail, or take their time, as trouble says; nil heals it.
func (s *brittleStorage) fails(trouble func(operation, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = trouble
}

// failing is trouble with all operations of that kind on such keys.
func failing(operation, suffix string) func(string, string) error {
	return func(o, key string) error {
		if o == operation && strings.HasSuffix(key, suffix) {
			return fs.ErrPermission
		}
		return nil
	}
}

// keys returns where something is stored.
func (s *brittleStorage) keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// has reports whether something is stored under such a key.
func (s *brittleStorage) has(suffix string) bool {
	return slices.ContainsFunc(s.keys(), func(key string) bool { return strings.HasSuffix(key, suffix) })
}

func (s *brittleStorage) fault(operation, key string) error {
	s.mu.Lock()
	trouble := s.trouble
	s.mu.Unlock()
	if trouble == nil || !strings.HasPrefix(key, "upstream_oauth2") { // Caddy has objects of its own
		return nil
	}
	return trouble(operation, key)
}

func (*brittleStorage) Lock(context.Context, string) error   { return nil }
func (*brittleStorage) Unlock(context.Context, string) error { return nil }

func (s *brittleStorage) Store(_ context.Context, key string, value []byte) error {
	if err := s.fault("store", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key] = slices.Clone(value)
	return nil
}

func (s *brittleStorage) Load(_ context.Context, key string) ([]byte, error) {
	if err := s.fault("load", key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.objects[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(value), nil
}

func (s *brittleStorage) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return nil
}

func (s *brittleStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Load(ctx, key)
	return err == nil
}

func (s *brittleStorage) List(_ context.Context, path string, _ bool) ([]string, error) {
	return slices.DeleteFunc(s.keys(), func(key string) bool { return !strings.HasPrefix(key, path+"/") }), nil
}

func (s *brittleStorage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{Key: key, IsTerminal: true}, nil
}

// brittleModule is how a config refers to a brittleStorage.
type brittleModule struct {
	Name string `json:"name"`
}

func (brittleModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.brittle", New: func() caddy.Module { return new(brittleModule) }}
}

func (m *brittleModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&m.Name) {
		return d.ArgErr()
	}
	return nil
}

func (m *brittleModule) CertMagicStorage() (certmagic.Storage, error) {
	s, ok := brittleStorages.Load(m.Name)
	if !ok {
		return nil, fs.ErrNotExist
	}
	return s.(*brittleStorage), nil
}

// Interface guards
var (
	_ certmagic.Storage      = (*brittleStorage)(nil)
	_ caddy.StorageConverter = (*brittleModule)(nil)
	_ caddyfile.Unmarshaler  = (*brittleModule)(nil)
)
