package upstreamoauth2

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
)

// loaded are the apps of all configs that are loaded: during a reload there are two.
var loaded apps

// apps are those of several configs.
type apps struct {
	mu   sync.Mutex
	list []*App // the newest last
}

func (l *apps) add(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, a)
}

func (l *apps) remove(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(other *App) bool { return other == a })
}

// inForce returns the app whose storage and keys are used: that of the newest config
// that has started, as one that is refused gets no grant to see. Of the first config,
// requests may come before. Nil if there is none.
func (l *apps) inForce() *App {
	if a := l.running(); a != nil {
		return a
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) == 0 {
		return nil
	}
	return l.list[0]
}

// starts notes that all apps of the config have started: it was not refused, and all
// of its clients are there.
func (l *apps) starts(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.running = true
}

// running returns the app of the newest config that has started; nil if there is
// none. What shows clients to people asks for it, as a config that is being loaded
// may yet be refused.
func (l *apps) running() *App {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range slices.Backward(l.list) {
		if a.running {
			return a
		}
	}
	return nil
}

// clients returns the app's clients in the order of their names; of those that have
// the same name and share a token, one.
func (a *App) clients() []*client {
	if a == nil {
		return nil
	}
	type identity struct {
		name   string
		shared *shared
	}
	known := make(map[identity]*client)
	for _, c := range a.live {
		known[identity{c.name, c.shared}] = c
	}
	return slices.SortedFunc(maps.Values(known), func(x, y *client) int {
		return cmp.Or(strings.Compare(x.name, y.name), strings.Compare(x.key.settings, y.key.settings))
	})
}

// find returns the client of that name; nil if there is none.
func (a *App) find(name string) *client {
	for _, c := range a.clients() {
		if c.name == name {
			return c
		}
	}
	return nil
}

// notReady returns the names of those clients among the named ones, or among all
// without accounts, that have no token to use.
func (a *App) notReady(names []string) []string {
	var missing []string
	for _, c := range a.clients() {
		if len(c.inputs) > 0 || len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		if !c.shared.cache.Entry(nil).Ready() {
			missing = append(missing, c.name)
		}
	}
	return slices.Compact(missing)
}
