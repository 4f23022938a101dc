package terminal

import (
	"os"
	"strings"
	"unicode"
)

// AsUser returns the line that runs this very command as another user.
func AsUser(name string) string {
	line := []string{"sudo", "-u", quoted(name)}
	for _, arg := range os.Args {
		line = append(line, quoted(arg))
	}
	return strings.Join(line, " ")
}

// quoted returns a word as a shell takes it.
func quoted(word string) string {
	plain := func(r rune) bool {
		return r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("-_./:=,@+", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Text is what may be written to a terminal of a text that a server wrote: nothing that
// steers it.
func Text(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}
