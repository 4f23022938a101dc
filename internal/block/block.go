// Package block reads blocks of options from a Caddyfile. Whatever is wrong is
// answered with file, line and what to write instead.
package block

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// Option is one line of a block: a name, its values, and for some a block of
// their own.
type Option struct {
	Usage    string // what stands behind the name
	Min, Max int    // number of values; Max -1 is any
	Repeats  bool   // may be written on several lines

	MayBeEmpty bool // takes "" for a value

	// Set takes the values. Its error is given the option's name and place.
	Set func(args []string) error

	// Block takes the block behind the values, if there is one. Nil if none goes
	// there.
	Block func() error
}

// Lines are the places of each option in a block.
type Lines map[string][]*caddyfile.Dispenser

// Read reads the block of owner, if there is one.
func Read(d *caddyfile.Dispenser, owner string, options map[string]Option) (Lines, error) {
	lines := make(Lines)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		o, ok := options[name]
		if !ok {
			return lines, unknownOption(d, owner, name, options)
		}
		if given := lines[name]; len(given) > 0 && !o.Repeats {
			return lines, d.Errf("%s is given twice, first at %s:%d: remove one", name, given[0].File(), given[0].Line())
		}
		lines[name] = append(lines[name], Position(d))
		if err := o.read(d, name); err != nil {
			return lines, err
		}
	}
	return lines, nil
}

// Of returns the line that err is about, or start if it is about none of them.
func (l Lines) Of(err error, start *caddyfile.Dispenser) *caddyfile.Dispenser {
	o, ok := errors.AsType[*config.OptionError](err)
	if !ok || len(l[o.Option]) == 0 {
		return start
	}
	lines := l[o.Option]
	for _, line := range lines {
		if slices.ContainsFunc(Position(line).RemainingArgs(), o.IsAbout) {
			return line
		}
	}
	return lines[0]
}

// read reads the rest of the option's line, and its block.
func (o Option) read(d *caddyfile.Dispenser, name string) error {
	usage := strings.TrimSpace(name + " " + o.Usage)
	args := d.RemainingArgs()
	switch {
	case len(args) == 0 && o.Min > 0:
		return d.Errf("%s has no value: write '%s' (an unset {$NAME} leaves none)", name, usage)
	case len(args) < o.Min:
		return d.Errf("%s has too few values: write '%s'", name, usage)
	case len(args) > 0 && o.Max == 0:
		return d.Errf("%s takes no value: write '%s'", name, usage)
	case len(args) > o.Max && o.Max >= 0:
		return d.Errf("%s has too many values: write '%s'", name, usage)
	case slices.ContainsFunc(args, isBlank) && !(o.MayBeEmpty && args[0] == ""):
		return d.Errf("%s has an empty value: write '%s', or remove the line", name, usage)
	}
	if err := o.Set(args); err != nil {
		return d.Errf("%s: %w", name, err)
	}
	if o.Block == nil {
		return Refuse(d, "%s takes no block: write '%s'", name, usage)
	}
	return o.Block()
}

func isBlank(value string) bool { return strings.TrimSpace(value) == "" }

// Refuse says what to do instead if a block follows, even an empty one.
func Refuse(d *caddyfile.Dispenser, format string, args ...any) error {
	line := Position(d)
	if d.NextBlock(d.Nesting()) || AtEnd(d) {
		return line.Errf(format, args...)
	}
	return nil
}

// AtEnd reports whether the last token read closes a block.
func AtEnd(d *caddyfile.Dispenser) bool {
	token := d.Token()
	return token.Text == "}" && !token.Quoted()
}

// Position remembers a place, for errors that are found later.
func Position(d *caddyfile.Dispenser) *caddyfile.Dispenser {
	place := *d
	return &place
}

// Value is an option with one value.
func Value[S ~string](usage string, field *S) Option {
	return Option{Usage: usage, Min: 1, Max: 1, Set: func(args []string) error {
		*field = S(args[0])
		return nil
	}}
}

// Values is an option with any number of values.
func Values(usage string, field *[]string) Option {
	return Option{Usage: usage, Min: 1, Max: -1, Repeats: true, Set: func(args []string) error {
		*field = append(*field, args...)
		return nil
	}}
}

// Flag is an option without a value.
func Flag(field *bool) Option {
	return Option{Set: func([]string) error {
		*field = true
		return nil
	}}
}

// Pair is an option that sets one of several names.
func Pair[S ~string](field *map[string]S, spell func(string) string) Option {
	return Option{Usage: "<name> <value>", Min: 2, Max: 2, Repeats: true, Set: func(args []string) error {
		name := spell(args[0])
		if _, ok := (*field)[name]; ok {
			return fmt.Errorf("%s is given twice: remove one", args[0])
		}
		if *field == nil {
			*field = make(map[string]S)
		}
		(*field)[name] = S(args[1])
		return nil
	}}
}

// AsWritten leaves a name as it is spelled, for Pair.
func AsWritten(name string) string { return name }

// Duration is an option with a duration longer than zero.
func Duration(field *caddy.Duration) Option {
	return Option{Usage: "<duration>", Min: 1, Max: 1, Set: func(args []string) error {
		d, err := caddy.ParseDuration(args[0])
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration longer than zero: write one such as 30s, 5m or 1h", args[0])
		}
		*field = caddy.Duration(d)
		return nil
	}}
}
