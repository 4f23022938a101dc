package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

var (
	// placeholder finds what looks like one. What a request holds may have any
	// name, such as {http.request.uri.query.filter[user]}.
	placeholder = regexp.MustCompile(`\{(http\.[^{}]+|[A-Za-z][\w.-]*)\}`)

	// wholePlaceholder matches a value that is one placeholder and nothing else.
	wholePlaceholder = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\.[^{}]+\}$`)

	// ownPlaceholder finds {env.*} and {file.*}.
	ownPlaceholder = regexp.MustCompile(`\{(env|file)\.[^{}]+\}`)

	// filePlaceholder finds what {file.*} placeholders name.
	filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

	// partOfPath finds what the Caddyfile makes of {file.*} without a slash.
	partOfPath = regexp.MustCompile(`\{http\.request\.uri\.path\.file\.([^{}]+)\}`)
)

// fromRequest reports whether text differs from request to request: it holds a
// placeholder that is known to requests only, such as {http.auth.user.id}, or one
// that a map directive sets.
func fromRequest(text string) bool {
	if !strings.Contains(text, "{") {
		return false
	}
	global := caddy.NewReplacer()
	for _, match := range placeholder.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(match[1], "file.") {
			continue
		}
		if _, known := global.Get(match[1]); !known {
			return true
		}
	}
	return false
}

// expand resolves the global placeholders in text. An unset or empty one is an
// error that names it, as an empty credential is never meant. Braces that are no
// placeholder are kept: they may belong to a secret.
func expand(ctx context.Context, read read, text string) (string, error) {
	if !strings.Contains(text, "{") {
		return text, nil
	}
	if err := checkGlobal(text); err != nil {
		return "", err
	}
	if name := strings.Trim(text, "{}"); wholePlaceholder.MatchString(text) && !strings.HasPrefix(name, "file.") {
		if _, known := caddy.NewReplacer().Get(name); !known {
			return "", fmt.Errorf("%s is not a placeholder that is known here: use {env.*} or {file.*}", text)
		}
	}
	var flaw error // of the first placeholder that has one
	global, repl := caddy.NewReplacer(), caddy.NewEmptyReplacer()
	repl.Map(func(key string) (any, bool) {
		path, isFile := strings.CutPrefix(key, "file.")
		if !isFile {
			value, known := global.Get(key)
			if known && value == "" && flaw == nil {
				flaw = emptyPlaceholder(key)
			}
			return value, known
		}
		content, err := read(ctx, path)
		value := withoutLineBreak(content)
		switch {
		case flaw != nil: // one is enough
		case err != nil:
			flaw = fmt.Errorf("%w: %w", errUnreadable, err)
		case value == "":
			flaw = fmt.Errorf("{%s} %w", key, errEmpty)
		}
		return value, true
	})
	value, err := repl.ReplaceOrErr(text, false, false)
	return value, cmp.Or(flaw, err)
}

// withoutLineBreak drops the one that editors end a file with.
func withoutLineBreak(content []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
}

// emptyPlaceholder says why a placeholder that is no file came out empty.
func emptyPlaceholder(key string) error {
	name, isVariable := strings.CutPrefix(key, "env.")
	if !isVariable {
		return fmt.Errorf("{%s} is empty", key)
	}
	if _, set := os.LookupEnv(name); !set {
		return fmt.Errorf("the environment variable %s is not set: set it for the Caddy process", name)
	}
	return fmt.Errorf("the environment variable %s is empty", name)
}

// checkGlobal refuses placeholders that only a request has a value for.
func checkGlobal(text string) error {
	if err := checkFiles(text); err != nil {
		return err
	}
	if strings.Contains(text, "{http.") {
		return errNotGlobal
	}
	return nil
}

// errNotGlobal is for placeholders that only a request has a value for, or nobody.
var errNotGlobal = errors.New("it holds a placeholder that differs from request to request, which is allowed in " + listRequestOptions() + " only: use {env.*} or {file.*}")

func listRequestOptions() string {
	// A client with one value for each option, so that the table of them lists it.
	some := []string{""}
	client := Client{Scope: some, Audience: some, Resource: some, TokenParam: map[string]Credential{"": ""}, Grant: &Grant{Claim: map[string]string{"": ""}}}
	var names []string
	for _, t := range client.texts() {
		if t.perRequest {
			names = append(names, t.option)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// checkFiles refuses placeholders that were meant for a file and name none, or one
// that would be looked for wherever Caddy was started. The request path has a
// file.base and a file.ext, and nothing else by that name.
func checkFiles(text string) error {
	for _, match := range partOfPath.FindAllStringSubmatch(text, -1) {
		if match[1] != "base" && match[1] != "ext" {
			return errors.New("a {file.*} placeholder without a slash is short for a part of the request path: write an absolute path, such as {file./run/secrets/partner}")
		}
	}
	for _, match := range filePlaceholder.FindAllStringSubmatch(text, -1) {
		if !filepath.IsAbs(match[1]) {
			return fmt.Errorf("%s is a relative path: write an absolute one, such as {file./run/secrets/partner}", match[0])
		}
	}
	return nil
}

// Files lists the {file.*} placeholders in text.
func Files(text string) []string { return filePlaceholder.FindAllString(text, -1) }

// ReadCredential resolves an option that holds a secret and belongs to no client. The
// error is an *OptionError.
func ReadCredential(ctx context.Context, option string, written Credential) (authserver.Secret, error) {
	value, err := expand(ctx, readFile, string(written))
	if err != nil {
		return authserver.Secret{}, &OptionError{Option: option, Err: err}
	}
	return authserver.NewSecret(value), nil
}
