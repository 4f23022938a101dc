package upstreamoauth2

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// expander resolves the placeholders in a client's options and keeps the first
// error, with the option it is about.
type expander struct {
	repl *caddy.Replacer

	// inputs has the values of options that a request contributes to. Nil while
	// no request is at hand: such text stays as it is.
	inputs map[requestInput]string

	// last has what was read before, for files that cannot be used as they are
	// now. Nil where there is no before.
	last *lastGood

	err error
}

// fail keeps err, if it is one, with the option it is about.
func (e *expander) fail(option string, err error) {
	if err != nil {
		e.keep(&optionError{option, err})
	}
}

// keep keeps the first error, but rather one that only a change of the config
// can mend.
func (e *expander) keep(err error) {
	if e.err == nil || mayHeal(e.err) && !mayHeal(err) {
		e.err = err
	}
}

// value resolves one value of an option.
func (e *expander) value(option, text string) string {
	if mayComeFromRequest[option] && fromRequest(text) {
		if value, ok := e.inputs[requestInput{option, text}]; ok {
			return value
		}
		return text
	}
	read := func(e *expander) string {
		value, err := expand(e.repl, text)
		e.fail(option, err)
		return value
	}
	if !filePlaceholder.MatchString(text) {
		return read(e)
	}
	return orLast(e, place{option: option, source: text}, read)
}

// values resolves all values of an option.
func (e *expander) values(option string, texts []string) []string {
	out := make([]string, 0, len(texts))
	for _, text := range texts {
		out = append(out, e.value(option, text))
	}
	return out
}

// secret resolves an option that holds a credential.
func (e *expander) secret(option string, text Credential) authserver.Secret {
	return authserver.NewSecret(e.value(option, string(text)))
}

// content resolves an option that names a file, or holds what would be in one,
// such as a key in an environment variable.
func (e *expander) content(option string, text Credential) []byte {
	value := e.value(option, string(text))
	if e.err != nil {
		return nil
	}
	if isContent(value) {
		return []byte(value)
	}
	content, err := os.ReadFile(value)
	switch {
	case err == nil:
	case looksLikePath(value):
		e.fail(option, fmt.Errorf("%w %s: %w", errUnreadable, string(text), withoutPath(err)))
	default: // it may be a key in a format of its own, which no error may show
		what := "the value"
		if !text.isLiteral() {
			what = "what " + text.String() + " holds"
		}
		e.fail(option, fmt.Errorf("%s is neither PEM, a JWK nor the path of a file: write an absolute path, such as /etc/caddy/partner.pem", what))
	}
	return content
}

// isContent reports whether a value is what a file would hold, rather than its name.
func isContent(value string) bool {
	return strings.Contains(value, "-----BEGIN ") || strings.HasPrefix(strings.TrimSpace(value), "{")
}

// fileExtension finds what files are called by, at the end of a path.
var fileExtension = regexp.MustCompile(`\.[A-Za-z][A-Za-z0-9]{0,7}$`)

// looksLikePath tells the path of a file from a key that is written in base64,
// say.
func looksLikePath(value string) bool {
	return filepath.IsAbs(value) || fileExtension.MatchString(value)
}

// withoutPath returns what went wrong with a file.
func withoutPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// errUnreadable marks files that cannot be read: they may appear, or be written
// anew, while Caddy runs.
var errUnreadable = errors.New("cannot read the file")

// placeholder finds what looks like one. What a request holds may have any name,
// such as {http.request.uri.query.filter[user]}.
var placeholder = regexp.MustCompile(`\{(http\.[^{}]+|[A-Za-z][\w.-]*)\}`)

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

// mayComeFromRequest are the options that may: what they hold is part of the
// key that tells tokens apart. Endpoints and our own credentials may not.
var mayComeFromRequest = map[string]bool{
	"scope":         true,
	"audience":      true,
	"resource":      true,
	"token_param":   true,
	"account":       true,
	"subject_token": true,
	"actor_token":   true,
	"assertion":     true,
	"subject":       true,
	"claim":         true,
}

// filePlaceholder finds what {file.*} placeholders name.
var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// expand resolves the placeholders in text. An unset or empty one is an error
// that names it, as an empty credential is never meant. Braces that are no
// placeholder are kept: they may belong to a secret.
func expand(repl *caddy.Replacer, text string) (string, error) {
	if !strings.Contains(text, "{") {
		return text, nil
	}
	if err := checkGlobal(text); err != nil {
		return "", err
	}
	for _, match := range filePlaceholder.FindAllStringSubmatch(text, -1) {
		f, err := os.Open(match[1])
		if err != nil {
			return "", fmt.Errorf("%w: %w", errUnreadable, err) // which names it
		}
		_ = f.Close()
	}
	if wholePlaceholder.MatchString(text) {
		if _, known := repl.Get(strings.Trim(text, "{}")); !known {
			return "", fmt.Errorf("%s is not a placeholder that is known here: use {env.*} or {file.*}", text)
		}
	}
	value, err := repl.ReplaceOrErr(text, true, false)
	if err != nil {
		return "", emptyPlaceholder(text)
	}
	return value, nil
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

// partOfPath finds what the Caddyfile makes of {file.*} without a slash.
var partOfPath = regexp.MustCompile(`\{http\.request\.uri\.path\.file\.([^{}]+)\}`)

// checkFiles refuses placeholders that were meant for a file. The request path
// has a file.base and a file.ext, and nothing else by that name.
func checkFiles(text string) error {
	for _, match := range partOfPath.FindAllStringSubmatch(text, -1) {
		if match[1] != "base" && match[1] != "ext" {
			return errors.New("a {file.*} placeholder without a slash is short for a part of the request path: write an absolute path, such as {file./run/secrets/partner}")
		}
	}
	return nil
}

func listRequestOptions() string {
	names := make([]string, 0, len(mayComeFromRequest))
	for name := range mayComeFromRequest {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// emptyPlaceholder says which placeholder in text came out empty, and why.
func emptyPlaceholder(text string) error {
	if _, name, ok := strings.Cut(text, "{env."); ok {
		name, _, _ = strings.Cut(name, "}")
		if _, set := os.LookupEnv(name); !set {
			return fmt.Errorf("the environment variable %s is not set: set it for the Caddy process", name)
		}
		return fmt.Errorf("the environment variable %s is empty", name)
	}
	return fmt.Errorf("%s is empty", Credential(text))
}
