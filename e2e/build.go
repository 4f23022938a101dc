package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// built returns the path of a program that build has built.
func built(name string) string {
	path, err := filepath.Abs(filepath.Join(".built", name))
	if err != nil {
		panic(err)
	}
	return path
}

func build() error {
	// The proxy is built in its own module, hence from the versions that users get.
	if err := run("..", "go", "build", "-o", built("caddy"), "./cmd/caddy"); err != nil {
		return err
	}
	if err := run("caddy-redis", "go", "build", "-o", built("caddy-redis"), "."); err != nil {
		return err
	}
	if err := run(".", "go", "build", "-o", built("zitadel"), "./zitadel"); err != nil {
		return err
	}
	if err := run("hydra", "go", "build", "-tags", "sqlite,json1", "-o", built("hydra"), "."); err != nil {
		return err
	}
	return installOIDCProvider()
}

// installOIDCProvider installs the npm packages unless those of the lock file are there already.
func installOIDCProvider() error {
	const dir = "oidc-provider"
	wanted, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return err
	}
	note := filepath.Join(dir, "node_modules", "installed-from.json")
	if installed, err := os.ReadFile(note); err == nil && bytes.Equal(installed, wanted) {
		return nil
	}
	if err := run(dir, "npm", "ci"); err != nil {
		return err
	}
	return os.WriteFile(note, wanted, 0o600)
}

func run(dir, program string, arguments ...string) error {
	cmd := exec.Command(program, arguments...)
	cmd.Dir = dir
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, output)
	}
	return nil
}
