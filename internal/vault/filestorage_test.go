package vault

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Three processes on certmagic's own storage, which is Caddy's default.
func TestFileStorage(t *testing.T) {
	folder := t.TempDir()
	open := func() *Vault {
		config := Config{Storage: &certmagic.FileStorage{Path: folder}, Key: oneKey}
		return New(func() Config { return config })
	}
	if err := open().Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := Record{RefreshToken: authserver.NewSecret("secret-0"), AccessToken: authserver.NewSecret("secret-access")}
	if _, err := open().Put(t.Context(), partner, first, false); err != nil {
		t.Fatal(err)
	}

	const rotations = 4
	var spent sync.Map
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			v := open()
			held, err := v.Load(t.Context(), partner.Name)
			for err == nil && held.Generation <= rotations {
				held, err = v.Update(t.Context(), partner, held.Record, issueOnce(&spent))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()

	v := open()
	held, err := v.Load(t.Context(), partner.Name)
	if err != nil {
		t.Fatal(err)
	}
	wantToken(t, held, rotations+1, fmt.Sprintf("secret-%d", rotations))
	shared := Grant{Name: NewName("shared"), Timeout: time.Second}
	if _, err := v.Share(t.Context(), shared, Record{}, fetch("secret-shared", time.Hour)); err != nil {
		t.Fatal(err)
	}
	if entries, err := v.List(t.Context()); err != nil || len(entries) != 1 || entries[0].Label != partner.Label {
		t.Errorf("got %+v, %v", entries, err)
	}
	if err := v.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	wantNowhere(t, folder, "secret", "alice")

	if err := v.Disconnect(t.Context(), partner); err != nil {
		t.Error(err)
	}
	if entries, err := v.List(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("got %+v, %v", entries, err)
	}
}

// issueOnce is a server that takes no refresh token twice.
func issueOnce(spent *sync.Map) Spend {
	return func(_ context.Context, held Record) (Record, error) {
		if _, again := spent.LoadOrStore(held.RefreshToken.Reveal(), true); again {
			return Record{}, fmt.Errorf("%v was spent twice", held)
		}
		held.RefreshToken = authserver.NewSecret(fmt.Sprintf("secret-%d", held.Generation))
		return held, nil
	}
}

// wantNowhere fails if one of the texts is in a file of the folder, or in its name.
func wantNowhere(t *testing.T, folder string, texts ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		for _, text := range texts {
			if bytes.Contains(append(content, path[len(folder):]...), []byte(text)) {
				t.Errorf("%s contains %q", path, text)
			}
		}
		return err
	})
	if err != nil || files < 4 {
		t.Errorf("%d files were looked through: %v", files, err)
	}
}
