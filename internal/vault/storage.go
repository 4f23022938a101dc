package vault

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

var (
	errNoStorage = errors.New("there is none")
	errNotKept   = errors.New("what was stored does not read back")
)

// operate performs one operation of the newest config's storage, and tells of it.
func (v *Vault) operate(ctx context.Context, operation string, perform func(context.Context, certmagic.Storage) error) error {
	storage := v.config().Storage
	if storage == nil {
		return &StorageError{operation, errNoStorage}
	}
	ctx, cancel := context.WithTimeout(ctx, storageTime)
	defer cancel()
	began := time.Now()
	err := perform(ctx, storage)
	v.observe(Outcome{Event: Operated, Operation: operation, Took: time.Since(began), Err: err})
	if err != nil {
		return &StorageError{operation, err}
	}
	return nil
}

// load opens an object into content, and reports whether it is sealed with the
// previous key. The error is fs.ErrNotExist, errDamaged, or one that this package
// exports.
func (v *Vault) load(ctx context.Context, name Name, object string, content any) (old bool, err error) {
	var sealed []byte
	err = v.operate(ctx, "load", func(ctx context.Context, s certmagic.Storage) (err error) {
		sealed, err = s.Load(ctx, name.key(object))
		return err
	})
	if err != nil {
		return false, err
	}
	return open(v.config(), name, object, sealed, content)
}

// write seals content and stores it.
func (v *Vault) write(ctx context.Context, name Name, object string, content any) (sealed []byte, err error) {
	sealed, err = seal(v.config().Key, name, object, content)
	if err != nil {
		return nil, err
	}
	return sealed, v.operate(ctx, "store", func(ctx context.Context, s certmagic.Storage) error {
		return s.Store(ctx, name.key(object), sealed)
	})
}

// store seals content, stores it and reads it back.
func (v *Vault) store(ctx context.Context, name Name, object string, content any) error {
	sealed, err := v.write(ctx, name, object, content)
	if err != nil {
		return err
	}
	var back []byte
	err = v.operate(ctx, "load", func(ctx context.Context, s certmagic.Storage) (err error) {
		back, err = s.Load(ctx, name.key(object))
		return err
	})
	switch {
	case err != nil:
		return err
	case !bytes.Equal(back, sealed):
		return &StorageError{"store", errNotKept}
	}
	return nil
}

// remove deletes an object. It is no error if there is none.
func (v *Vault) remove(ctx context.Context, name Name, object string) error {
	return v.operate(ctx, "delete", func(ctx context.Context, s certmagic.Storage) error {
		if err := s.Delete(ctx, name.key(object)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// list returns the names of which there is an object under root.
func (v *Vault) list(ctx context.Context, root string) ([]Name, error) {
	var keys []string
	err := v.operate(ctx, "list", func(ctx context.Context, s certmagic.Storage) (err error) {
		keys, err = s.List(ctx, root, false)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []Name
	for _, key := range keys {
		name, _, _ := strings.Cut(strings.TrimPrefix(key, root+"/"), "/")
		if isName(name) && !slices.Contains(names[max(0, len(names)-1):], Name(name)) {
			names = append(names, Name(name))
		}
	}
	return names, nil
}

// lock holds a lock of a storage, if it could be had.
type lock struct {
	free func() // nil if it is not held
}

// acquire waits for the grant's lock, and not for long. A lock that cannot be had is
// done without.
func (l *lock) acquire(ctx context.Context, v *Vault, name Name) {
	storage := v.config().Storage
	if storage == nil {
		return
	}
	// Some storages renew a lock until the context ends that it was taken with.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	free := func() {
		defer cancel()
		ctx, cancel := context.WithTimeout(ctx, storageTime)
		defer cancel()
		began := time.Now()
		err := storage.Unlock(ctx, name.lock()) // of the storage that was locked, also after a reload
		v.observe(Outcome{Event: Operated, Operation: "unlock", Took: time.Since(began), Err: err})
	}
	began := time.Now()
	got := make(chan error, 1)
	go func() { got <- storage.Lock(ctx, name.lock()) }() // some ignore the context
	timer := time.NewTimer(lockWait)
	defer timer.Stop()
	var err error
	select {
	case err = <-got:
	case <-timer.C:
		err = context.DeadlineExceeded
		cancel()
		go func() {
			if <-got == nil {
				free()
			}
		}()
	}
	v.observe(Outcome{Event: Operated, Operation: "lock", Took: time.Since(began), Err: err})
	if err == nil {
		l.free = free
	} else {
		cancel()
	}
}

func (l *lock) held() bool { return l.free != nil }

func (l *lock) release() {
	if l.free != nil {
		l.free()
		l.free = nil
	}
}
