package upstreamoauth2

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// option is one line of a block: a name, its values, and for some a block of
// their own.
type option struct {
	usage    string // what stands behind the name
	min, max int    // number of values; max -1 is any
	repeats  bool   // may be written on several lines

	mayBeEmpty bool // takes "" for a value

	// set takes the values. Its error is given the option's name and place.
	set func(args []string) error

	// block takes the block behind the values, if there is one. Nil if none goes
	// there.
	block func() error
}

// optionLines are the places of each option in a block.
type optionLines map[string][]*caddyfile.Dispenser

// readOptions reads the block of owner, if there is one.
func readOptions(d *caddyfile.Dispenser, owner string, options map[string]option) (optionLines, error) {
	lines := make(optionLines)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		o, ok := options[name]
		if !ok {
			return lines, unknownOption(d, owner, name, options)
		}
		if given := lines[name]; len(given) > 0 && !o.repeats {
			return lines, d.Errf("%s is given twice, first at %s:%d: remove one", name, given[0].File(), given[0].Line())
		}
		lines[name] = append(lines[name], here(d))
		if err := o.read(d, name); err != nil {
			return lines, err
		}
	}
	return lines, nil
}

// of returns the line that err is about, or start if it is about none of them.
func (l optionLines) of(err error, start *caddyfile.Dispenser) *caddyfile.Dispenser {
	o, ok := errors.AsType[*config.OptionError](err)
	if !ok || len(l[o.Option]) == 0 {
		return start
	}
	lines := l[o.Option]
	for _, line := range lines {
		if slices.ContainsFunc(here(line).RemainingArgs(), o.IsAbout) {
			return line
		}
	}
	return lines[0]
}

// read reads the rest of the option's line, and its block.
func (o option) read(d *caddyfile.Dispenser, name string) error {
	usage := strings.TrimSpace(name + " " + o.usage)
	args := d.RemainingArgs()
	switch {
	case len(args) == 0 && o.min > 0:
		return d.Errf("%s has no value: write '%s' (an unset {$NAME} leaves none)", name, usage)
	case len(args) < o.min:
		return d.Errf("%s has too few values: write '%s'", name, usage)
	case len(args) > 0 && o.max == 0:
		return d.Errf("%s takes no value: write '%s'", name, usage)
	case len(args) > o.max && o.max >= 0:
		return d.Errf("%s has too many values: write '%s'", name, usage)
	case slices.ContainsFunc(args, isBlank) && !(o.mayBeEmpty && args[0] == ""):
		return d.Errf("%s has an empty value: write '%s', or remove the line", name, usage)
	}
	if err := o.set(args); err != nil {
		return d.Errf("%s: %w", name, err)
	}
	if o.block == nil {
		return refuseBlock(d, "%s takes no block: write '%s'", name, usage)
	}
	return o.block()
}

func isBlank(value string) bool { return strings.TrimSpace(value) == "" }

// refuseBlock says what to do instead if a block follows, even an empty one.
func refuseBlock(d *caddyfile.Dispenser, format string, args ...any) error {
	line := here(d)
	if d.NextBlock(d.Nesting()) || atBlockEnd(d) {
		return line.Errf(format, args...)
	}
	return nil
}

// atBlockEnd reports whether the last token read closes a block.
func atBlockEnd(d *caddyfile.Dispenser) bool {
	token := d.Token()
	return token.Text == "}" && !token.Quoted()
}

// here remembers a place, for errors that are found later.
func here(d *caddyfile.Dispenser) *caddyfile.Dispenser {
	place := *d
	return &place
}

// value is an option with one value.
func value[S ~string](usage string, field *S) option {
	return option{usage: usage, min: 1, max: 1, set: func(args []string) error {
		*field = S(args[0])
		return nil
	}}
}

// values is an option with any number of values.
func values(usage string, field *[]string) option {
	return option{usage: usage, min: 1, max: -1, repeats: true, set: func(args []string) error {
		*field = append(*field, args...)
		return nil
	}}
}

// flag is an option without a value.
func flag(field *bool) option {
	return option{set: func([]string) error {
		*field = true
		return nil
	}}
}

// pair is an option that sets one of several names.
func pair[S ~string](field *map[string]S, spell func(string) string) option {
	return option{usage: "<name> <value>", min: 2, max: 2, repeats: true, set: func(args []string) error {
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

func asWritten(name string) string { return name }

func duration(field *caddy.Duration) option {
	return option{usage: "<duration>", min: 1, max: 1, set: func(args []string) error {
		d, err := caddy.ParseDuration(args[0])
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration longer than zero: write one such as 30s, 5m or 1h", args[0])
		}
		*field = caddy.Duration(d)
		return nil
	}}
}
