package upstreamoauth2

import (
	"regexp"
	"sync"

	"go.uber.org/zap"
)

// place is where a config names a file, or two that belong together.
type place struct {
	option string
	source string // the path or placeholder
	with   string // that of the other file, if any
}

// files names the place's files as the config does, without what may be a secret
// beside a placeholder.
func (p place) files() []string {
	var files []string
	for _, text := range []string{p.source, p.with} {
		found := ownPlaceholder.FindAllString(text, -1)
		if found == nil && looksLikePath(text) {
			found = []string{text}
		}
		files = append(files, found...)
	}
	return files
}

// ownPlaceholder finds {env.*} and {file.*}.
var ownPlaceholder = regexp.MustCompile(`\{(env|file)\.[^{}]+\}`)

// lastGood remembers what was read last at each place. While an operator
// replaces a key and then its certificate, or a tool writes a file anew, files
// are missing, empty, damaged or no pair; token requests go on with what was
// there before.
type lastGood struct {
	logger *zap.Logger

	mu sync.Mutex
	by map[place]*reading
}

// reading is what was read last, and what has been wrong since.
type reading struct {
	value any
	fault string
}

func newLastGood(logger *zap.Logger) *lastGood {
	return &lastGood{logger: logger, by: make(map[place]*reading)}
}

// orLast returns what read finds at a place. If it fails, that is what it found
// when it last did not.
func orLast[T any](e *expander, p place, read func(*expander) T) T {
	if e.last == nil {
		return read(e)
	}
	now := &expander{repl: e.repl, inputs: e.inputs} // of two files, both or none
	value := read(now)
	if now.err == nil {
		e.last.remember(p, value)
		return value
	}
	if before, ok := e.last.insteadOf(p, now.err).(T); ok {
		return before
	}
	e.keep(now.err)
	return value
}

func (l *lastGood) remember(p place, value any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.by[p] = &reading{value: value}
}

// insteadOf returns what was read before err, nil if nothing was, and says so in
// the log: once for each thing that is wrong.
func (l *lastGood) insteadOf(p place, err error) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.by[p]
	if last == nil {
		return nil
	}
	if fault := err.Error(); last.fault != fault {
		last.fault = fault
		l.logger.Warn("a credential cannot be used as it stands in its file; the one read before is used until it can",
			zap.Error(err), zap.Strings("files", p.files()))
	}
	return last.value
}
