package authserver

import (
	"encoding/base64"
	"encoding/hex"
	"html"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of what is decoded of a text. One that goes beyond them is not quoted.
const (
	maxLayers  = 8         // of escapes, one in the other
	maxPacked  = 4         // of base64 and hex, one in the other
	maxDecoded = 128 << 10 // bytes of all readings together
	minPacked  = 6         // characters of base64 or hex that are worth a look
)

// reading is a text as it reads once it is decoded. Each byte of it stands for a
// part of the text as it came.
type reading struct {
	text     string
	at       []span // of each byte; nil where nobody will ask
	unpacked bool   // out of base64 or hex, so that much of it is chance
}

// span is a part of a text.
type span struct{ from, to int }

// span returns the part of the text as it came that r.text[i:j] stands for.
func (r reading) span(i, j int) span {
	part := r.at[i]
	for _, s := range r.at[i+1 : j] {
		part.from, part.to = min(part.from, s.from), max(part.to, s.to)
	}
	return part
}

// add appends text that stands for that part.
func (r *reading) add(text string, part span) {
	r.text += text
	for range len(text) {
		r.at = append(r.at, part)
	}
}

// readings returns all that a text can be decoded to, each folded for comparison;
// false if that goes beyond the limits.
func readings(text string) (folded []reading, ok bool) {
	whole := reading{text: text, at: make([]span, len(text))}
	for i := range whole.at {
		whole.at[i] = span{i, i + 1}
	}
	open, decoded := []reading{whole}, 0
	for range maxPacked + 1 {
		var packed []reading
		for _, r := range open {
			plain, settled := r.unescaped()
			if !settled {
				return nil, false
			}
			for _, p := range plain {
				if decoded += len(p.text); decoded > maxDecoded {
					return nil, false
				}
				folded = append(folded, p.folded())
				packed = append(packed, p.unpacked64()...)
				packed = append(packed, p.unpackedHex()...)
			}
		}
		open = packed
	}
	return folded, len(open) == 0
}

// spellings returns the forms in which a secret is looked for: as it is, and decoded
// as the text is, since a secret may look encoded. Base64 whose case was changed
// cannot be decoded, so it is among them.
func spellings(secret string) []string {
	var forms []string
	plain, _ := reading{text: secret}.unescaped()
	for _, r := range append(plain,
		reading{text: base64.StdEncoding.EncodeToString([]byte(secret))},
		reading{text: base64.RawURLEncoding.EncodeToString([]byte(secret))},
	) {
		forms = append(forms, r.folded().text)
	}
	return forms
}

// unescaped returns the reading as it is and with all its escapes undone, those of
// escapes included; false if there is no end to that. Quoted-printable is tried apart:
// "=" stands in front of many a value, such as "key=abc".
func (r reading) unescaped() ([]reading, bool) {
	forms := []reading{r}
	for _, quotedPrintable := range []bool{false, true} {
		plain, changed := r, true
		for layer := 0; changed; layer++ {
			if layer > maxLayers {
				return forms, false
			}
			plain, changed = plain.unescape(quotedPrintable)
		}
		if !slices.ContainsFunc(forms, func(f reading) bool { return f.text == plain.text }) {
			forms = append(forms, plain)
		}
	}
	return forms, true
}

// unescape undoes one layer of escapes and reports whether there was any.
func (r reading) unescape(quotedPrintable bool) (_ reading, changed bool) {
	if !strings.ContainsAny(r.text, `%&\=`) {
		return r, false
	}
	var text strings.Builder
	var at []span
	for i := 0; i < len(r.text); {
		plain, n := escape(r.text[i:], quotedPrintable)
		changed = changed || n > 0
		if n == 0 {
			plain, n = r.text[i:i+1], 1
		}
		text.WriteString(plain)
		if r.at != nil {
			at = append(at, slices.Repeat([]span{r.span(i, i+n)}, len(plain))...)
		}
		i += n
	}
	return reading{text: text.String(), at: at, unpacked: r.unpacked}, changed
}

// escape returns the text that s begins with in escaped form, and the length of that
// form; 0 if s begins with none.
func escape(s string, quotedPrintable bool) (plain string, length int) {
	switch s[0] {
	case '%': // URLs and forms; %u is JavaScript's
		if plain, length = number(s, "%u", 16, 4, 4); length > 0 {
			return plain, length
		}
		return number(s, "%", 16, 2, 2)
	case '=': // RFC 2045 section 6.7
		if !quotedPrintable {
			return "", 0
		}
		for _, softBreak := range []string{"=\r\n", "=\n"} {
			if strings.HasPrefix(s, softBreak) {
				return "", len(softBreak)
			}
		}
		return number(s, "=", 16, 2, 2)
	case '&': // HTML
		const longest = 33
		end := 1
		for end < min(len(s), longest) && (s[end] == '#' || isAlphanumeric(s[end])) {
			end++
		}
		if end < len(s) && s[end] == ';' {
			end++
		}
		if plain = html.UnescapeString(s[:end]); plain != s[:end] {
			return plain, end
		}
	case '\\': // JSON and programming languages
		for _, kind := range []struct {
			prefix            string
			base, least, most int
		}{{`\x`, 16, 2, 2}, {`\u`, 16, 4, 4}, {`\U`, 16, 8, 8}, {`\`, 8, 1, 3}} {
			if plain, length = number(s, kind.prefix, kind.base, kind.least, kind.most); length > 0 {
				return plain, length
			}
		}
		if len(s) == 1 {
			return "", 0
		}
		if i := strings.IndexByte("abfnrtv", s[1]); i >= 0 {
			return "\a\b\f\n\r\t\v"[i : i+1], 2
		}
		if !isAlphanumeric(s[1]) {
			return s[1:2], 2
		}
	}
	return "", 0
}

// number returns the character whose code follows the prefix, in at least and at
// most so many digits.
func number(s, prefix string, base, least, most int) (char string, length int) {
	if !strings.HasPrefix(s, prefix) {
		return "", 0
	}
	code, end := rune(0), len(prefix)
	for end < min(len(s), len(prefix)+most) {
		digit := strings.IndexByte("0123456789abcdef"[:base], lower(s[end]))
		if digit < 0 {
			break
		}
		code, end = code*rune(base)+rune(digit), end+1
	}
	if end < len(prefix)+least {
		return "", 0
	}
	return string(code), end // or a byte of UTF-8, which folds alike
}

// lower returns an ASCII letter as a small one.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// folded returns the reading without what encodings do not agree on: case, how a
// space is written in a form, and how many bytes stand for what is not ASCII.
func (r reading) folded() reading {
	text := make([]byte, 0, len(r.text))
	var at []span
	for i := 0; i < len(r.text); {
		char, n := utf8.DecodeRuneInString(r.text[i:])
		c := lower(byte(printableRune(char)))
		if c == '+' {
			c = ' '
		}
		last := len(text) - 1
		again := c == '?' && last >= 0 && text[last] == '?'
		if !again {
			text = append(text, c)
		}
		switch {
		case r.at == nil:
		case again:
			at[last].to = max(at[last].to, r.span(i, i+n).to)
		default:
			at = append(at, r.span(i, i+n))
		}
		i += n
	}
	return reading{text: string(text), at: at, unpacked: r.unpacked}
}

// digits are digits of base64 or hex without anything between them.
type digits struct {
	text string
	at   []span
}

// runs returns all runs of digits. normal returns a digit as the decoder takes it, 0
// for other characters; those in between may stand between two digits.
func (r reading) runs(normal func(byte) byte, between string) (runs []digits) {
	var text []byte
	var at []span
	end := func() {
		if len(text) >= minPacked {
			runs = append(runs, digits{string(text), at})
		}
		text, at = nil, nil
	}
	for i := range len(r.text) {
		digit := normal(r.text[i])
		switch {
		case digit != 0:
			text, at = append(text, digit), append(at, r.at[i])
		case strings.IndexByte(between, r.text[i]) < 0:
			end()
		}
	}
	end()
	return runs
}

// unpacked64 returns what is packed in base64. Where that begins cannot be told, as
// words run into it, so there is a reading for each beginning. A secret in it takes
// the whole run with it.
func (r reading) unpacked64() []reading {
	runs := r.runs(func(c byte) byte {
		switch c {
		case '+', '/':
			return c
		case '-': // RFC 4648 section 5
			return '+'
		case '_':
			return '/'
		}
		if isAlphanumeric(c) {
			return c
		}
		return 0
	}, "\r\n")
	return eachBeginning(4, runs, func(run digits, unpacked *reading) {
		decoded, _ := base64.RawStdEncoding.DecodeString(run.text) // of a cut one, what is whole
		unpacked.add(string(decoded), span{run.at[0].from, run.at[len(run.at)-1].to})
	})
}

// unpackedHex returns what is packed in hexadecimal digits.
func (r reading) unpackedHex() []reading {
	runs := r.runs(func(c byte) byte {
		if isAlphanumeric(c) && lower(c) <= 'f' {
			return c
		}
		return 0
	}, " :,-")
	return eachBeginning(2, runs, func(run digits, unpacked *reading) {
		decoded, _ := hex.DecodeString(run.text[:len(run.text)/2*2])
		for i := range decoded {
			unpacked.add(string(decoded[i:i+1]), span{run.at[2*i].from, run.at[2*i+1].to})
		}
	})
}

// eachBeginning returns a reading of all runs for each of the first n digits that
// they may begin with.
func eachBeginning(n int, runs []digits, decode func(digits, *reading)) (readings []reading) {
	if len(runs) == 0 {
		return nil
	}
	for skip := range n {
		unpacked := reading{unpacked: true}
		for _, run := range runs {
			decode(digits{run.text[skip:], run.at[skip:]}, &unpacked)
			unpacked.add("\n", run.at[len(run.at)-1]) // keeps two runs apart
		}
		readings = append(readings, unpacked)
	}
	return readings
}
