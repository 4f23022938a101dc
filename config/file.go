package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sync/singleflight"
)

// errUnreadable and errEmpty mark files that cannot be used: they may appear, or be
// written anew, while Caddy runs.
var (
	errUnreadable = errors.New("cannot read the file")
	errEmpty      = errors.New("is empty")
)

// Temporary reports whether err is about a file that may still appear or be filled:
// such a client is let in and heals by itself. An environment variable does not
// change while the process runs.
func Temporary(err error) bool { return errors.Is(err, errUnreadable) || errors.Is(err, errEmpty) }

// maxFile is how much of a file is read, as with Caddy's own {file.*}.
const maxFile = 1 << 20

// reads are the readings in progress, by path. One that hangs, on a dead network
// share or a FIFO, is joined by whoever wants the same file: it costs one
// goroutine, however many requests come.
var reads singleflight.Group

// read is how a file is read.
type read func(ctx context.Context, path string) ([]byte, error)

// readFile reads a file as long as ctx lets it.
func readFile(ctx context.Context, path string) ([]byte, error) {
	result := reads.DoChan(path, func() (any, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is a directory: name the file in it")}
		}
		return io.ReadAll(io.LimitReader(f, maxFile))
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.([]byte), nil
	case <-ctx.Done():
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it took too long: check the file system it is on")}
	}
}

// readContent reads the file that an option names; a value that is itself what
// would be in one, such as a key in an environment variable, is returned as it is.
func readContent(ctx context.Context, read read, value string, written Credential) ([]byte, error) {
	if isContent(value) {
		return []byte(value), nil
	}
	if err := checkPath(value, written); err != nil {
		return nil, err
	}
	content, err := read(ctx, value)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w %s: %w", errUnreadable, string(written), withoutPath(err))
	case len(bytes.TrimSpace(content)) == 0:
		return nil, fmt.Errorf("%w %s: it is empty", errUnreadable, string(written))
	}
	return content, nil
}

// checkPath refuses a value that is no absolute path. It may be a key in a format of
// its own, which no error may show.
func checkPath(value string, written Credential) error {
	what := "the value"
	switch {
	case filepath.IsAbs(value):
		return nil
	case !written.IsLiteral():
		what = "what " + written.String() + " holds"
	case fileExtension.MatchString(value):
		what = value
	}
	if fileExtension.MatchString(value) {
		return fmt.Errorf("%s is a relative path: write an absolute one, such as /etc/caddy/partner.pem", what)
	}
	return fmt.Errorf("%s is neither PEM, a JWK nor the path of a file: write an absolute path, such as /etc/caddy/partner.pem", what)
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
