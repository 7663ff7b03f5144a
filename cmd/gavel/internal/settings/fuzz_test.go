package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
)

// FuzzLoad reads anything as a settings file, with a password in its middle: nothing panics, every
// error is one of usage and tells the password to nobody, and what is accepted is read the same
// again.
func FuzzLoad(f *testing.F) {
	path := filepath.Join(f.TempDir(), "gavel.yaml")
	load := func(t *testing.T, text string) (settings.Coordinator, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return settings.Load(path)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		text := before + "postgres://u:" + secret + "@h/d" + after
		c, err := load(t, text)
		again, err2 := load(t, text)
		if (err == nil) != (err2 == nil) || !reflect.DeepEqual(c, again) {
			t.Errorf("read as %+v (%v), then as %+v (%v)", c, err, again, err2)
		}
		if err == nil {
			err = c.Validate()
		}
		if err == nil {
			return
		}
		told := !strings.Contains(before+after, secret) && strings.Contains(err.Error(), secret)
		if usage, ok := errors.AsType[*exit.Error](err); !ok || usage.Code != exit.Usage || told {
			t.Errorf("%q is refused with %T %v", text, err, err)
		}
	})
}
