package config

import (
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// place is where a config names a file, or two that belong together.
type place struct {
	option string
	source string // the path or placeholder
	with   string // that of the other file, if any
	as     string // what it is read as, where the config says more than that
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

// readings are what was read last at each place, for all configs that name it. By
// what the config says, they outlive a reload during which a file is missing.
var readings = caddy.NewUsagePool()

// reading is what was read last at one place.
type reading struct {
	mu    sync.Mutex
	value any // nil before anything could be read
}

// Destruct implements caddy.Destructor.
func (*reading) Destruct() error { return nil }

// lastGood remembers for a client what was read last at each place. While an
// operator replaces a key and then its certificate, or a tool writes a file anew,
// files are missing, empty, damaged or no pair; token requests go on with what
// was there before.
type lastGood struct {
	logger *zap.Logger

	mu     sync.Mutex
	used   map[place]*reading
	faults map[place]string // what has been wrong since the last reading
	left   bool             // the config is gone
}

func newLastGood(logger *zap.Logger) *lastGood {
	return &lastGood{logger: logger, used: make(map[place]*reading), faults: make(map[place]string)}
}

// at returns the reading at a place, which is kept as long as a client uses it.
func (l *lastGood) at(p place) *reading {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.used[p]; ok {
		return known
	}
	if l.left { // a last token request of a config that is gone
		return new(reading)
	}
	value, _, _ := readings.LoadOrNew(p, func() (caddy.Destructor, error) { return new(reading), nil })
	l.used[p] = value.(*reading)
	return l.used[p]
}

// leave lets the readings go, which end with their last client.
func (l *lastGood) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.used {
		_, _ = readings.Delete(p)
	}
	l.used, l.left = nil, true
}

// orRemembered returns what read finds at a place. If it fails, that is what was
// found when it last did not.
func orRemembered[T any](l *lastGood, p place, read func() (T, error)) (T, error) {
	value, err := read()
	last := l.at(p)
	last.mu.Lock()
	defer last.mu.Unlock()
	if err == nil {
		last.value = value
		l.note(p, nil)
		return value, nil
	}
	if before, ok := last.value.(T); ok {
		l.note(p, err)
		return before, nil
	}
	return value, err
}

// note says in the log that what was read before is used: once for each thing that
// is wrong.
func (l *lastGood) note(p place, err error) {
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if fault != "" && l.faults[p] != fault {
		l.logger.Warn("a credential cannot be used as it stands in its file; the one read before is used until it can",
			zap.Error(&OptionError{Option: p.option, Err: err}), zap.Strings("files", p.files()))
	}
	l.faults[p] = fault
}
