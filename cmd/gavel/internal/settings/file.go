package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/guess"
)

// maxFile bounds a settings file, in bytes.
const maxFile = 1 << 20

// Load reads a settings file on top of the defaults. Errors show the place in the file.
func Load(path string) (Coordinator, error) {
	f, err := os.Open(path)
	if err != nil {
		return Coordinator{}, &exit.Error{Code: exit.Usage, What: err.Error(), Err: err}
	}
	body, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Coordinator{}, &exit.Error{Code: exit.Usage, What: err.Error(), Err: err}
	}
	if len(body) > maxFile {
		return Coordinator{}, exit.Usagef("", "%s is longer than %d bytes", path, maxFile)
	}
	c := Defaults()
	if err := yaml.UnmarshalWithOptions(body, &c, yaml.Strict()); err != nil && err != io.EOF {
		return Coordinator{}, located(path, body, err)
	}
	if reflect.ValueOf(c).IsZero() {
		// A file with nothing but comments decodes as null, which empties what it is decoded into.
		return Defaults(), nil
	}
	return c, nil
}

// located is a decoder's error with its line, a caret under the place, and a guess at what was
// meant. The decoder's own rendering shows the lines around it whole, which may hold passwords.
func located(path string, body []byte, err error) error {
	at, ok := errors.AsType[yaml.Error](err)
	if !ok || at.GetToken() == nil {
		if line, column := badDuration(body); line > 0 {
			return exit.Usagef("", "%s line %d: the value must be %s\n%s", path, line,
				kind(reflect.TypeFor[time.Duration]()), excerpt(body, line, column))
		}
		return exit.Usagef("", "%s: %s", path, hide(err.Error()))
	}
	what, do := explain(at, err)
	pos := at.GetToken().Position
	return exit.Usagef(do, "%s line %d: %s\n%s", path, pos.Line, what,
		excerpt(body, pos.Line, pos.Column))
}

func explain(at yaml.Error, err error) (what, do string) {
	word := at.GetToken().Value
	if _, ok := errors.AsType[*yaml.UnknownFieldError](err); ok {
		return fmt.Sprintf("unknown key %q", hide(word)), guess.DidYouMean(word, keys())
	}
	if bad, ok := errors.AsType[*yaml.TypeError](err); ok {
		return "the value must be " + kind(bad.DstType), ""
	}
	return hide(at.GetMessage()), ""
}

func kind(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 2s or 24h"
	case t.Kind() == reflect.Map:
		return "a mapping, one NAME: URL on each line"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Bool:
		return "true or false"
	}
	return "a " + t.Kind().String()
}

// keys are all keys that a file may have.
func keys() []string { return keysOf(reflect.TypeFor[Coordinator]()) }

// badDuration is the place of the first value that is no duration and should be one: the decoder's
// error about it knows no place.
func badDuration(body []byte) (line, column int) {
	number := 0
	for text := range strings.Lines(string(body)) {
		number++
		key, value, ok := strings.Cut(text, ":")
		if !ok || !isDuration(key) {
			continue
		}
		value, _, _ = strings.Cut(value, "#")
		if _, err := time.ParseDuration(strings.Trim(value, " \t\r\n\"'")); err != nil {
			return number, len(key) + len(": ") + 1
		}
	}
	return 0, 0
}

func isDuration(key string) bool {
	for f := range reflect.TypeFor[Coordinator]().Fields() {
		if f.Tag.Get("yaml") == key && f.Type == reflect.TypeFor[time.Duration]() {
			return true
		}
	}
	return false
}

func keysOf(t reflect.Type) []string {
	var out []string
	for f := range t.Fields() {
		if f.Anonymous {
			out = append(out, keysOf(f.Type)...)
			continue
		}
		out = append(out, f.Tag.Get("yaml"))
	}
	return out
}

// excerpt is the line before and the line itself with a caret under its column.
func excerpt(body []byte, line, column int) string {
	lines := strings.Split(string(body), "\n")
	var b strings.Builder
	for n := max(1, line-1); n <= line && n <= len(lines); n++ {
		mark := ' '
		if n == line {
			mark = '>'
		}
		fmt.Fprintf(&b, "%c %3d | %s\n", mark, n, hide(lines[n-1]))
	}
	return b.String() + strings.Repeat(" ", len("> 123 | ")+max(0, column-1)) + "^"
}

// hide takes passwords out of a line: what stands between the user and the last @ of a URL, and
// parameters of that name.
func hide(line string) string {
	line = regexp.MustCompile(`://([^:/@\s]*):\S*@`).ReplaceAllString(line, "://$1:…@")
	return regexp.MustCompile(`(?i)(pass\w*=)[^&\s'"]*`).ReplaceAllString(line, "$1…")
}
