package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// storage is where Caddys keep what they keep, and share it.
type storage struct {
	caddy  string // the program that knows it
	option string // of the Caddyfile
	dump   func() (string, error)

	// Of Redis: it stalls, or is killed, until what they return is called.
	stall, kill func() (heal func())
}

// storages are all kinds, by name.
var storages = map[string]func(*testing.T) *storage{"folder": newFolder, "Redis": startRedis}

func newFolder(t *testing.T) *storage {
	t.Helper()
	dir := t.TempDir()
	return &storage{
		caddy:  "caddy",
		option: "storage file_system " + dir,
		dump: func() (string, error) {
			var all strings.Builder
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				content, err := os.ReadFile(path)
				fmt.Fprintf(&all, "%s\n%s\n", path, content)
				return err
			})
			return all.String(), err
		},
	}
}

func startRedis(t *testing.T) *storage {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	start := func() *process {
		p := startProcess(t, "redis-server", exec.Command("redis-server", "--bind", "127.0.0.1", "--port", fmt.Sprint(port),
			"--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no"))
		eventually(t, "redis-server answers", func() bool { return listening(port) })
		return p
	}
	server := start()
	signal := func(s syscall.Signal) {
		if err := server.cmd.Process.Signal(s); err != nil {
			t.Error(err)
		}
	}
	return &storage{
		caddy:  "caddy-redis",
		option: fmt.Sprintf("storage redis {\nhost 127.0.0.1\nport %d\n}", port),
		dump: func() (string, error) {
			if output, err := exec.Command("redis-cli", "-p", fmt.Sprint(port), "SAVE").CombinedOutput(); err != nil {
				return "", fmt.Errorf("%w: %s", err, output)
			}
			content, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
			return string(content), err
		},
		stall: func() func() {
			signal(syscall.SIGSTOP)
			return func() { signal(syscall.SIGCONT) }
		},
		kill: func() func() {
			server.kill()
			return func() { server = start() }
		},
	}
}
