package xabranch_test

import (
	"testing"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
)

// The words of read_only are those of MariaDB 12, the numbers those of older ones and of MySQL.
func TestPureIsOn(t *testing.T) {
	for text, want := range map[string]bool{"0": false, "OFF": false, "off": false, "": false,
		"1": true, "ON": true, "NO_LOCK": true, "NO_LOCK_NO_ADMIN": true} {
		if xabranch.IsOn(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
