package ui

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnits are the units of a size, each 1024 times the one before.
var sizeUnits = [...]string{"B", "KiB", "MiB", "GiB", "TiB"}

// SizeText is a number of bytes for people, e.g. "64.0 MiB".
func SizeText(n int64) string {
	size := float64(n)
	i := 0
	for size >= 1024 && i < len(sizeUnits)-1 {
		size, i = size/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, sizeUnits[i])
}

// Size is a number of bytes above zero that a flag or a URL gives, e.g. 512MiB. Zero is one that
// was not given.
type Size int64

// String is the size as it can be given, or nothing where it was not.
func (s *Size) String() string {
	if *s == 0 {
		return ""
	}
	n, i := int64(*s), 0
	for n%1024 == 0 && i < len(sizeUnits)-1 {
		n, i = n/1024, i+1
	}
	return fmt.Sprint(n, sizeUnits[i])
}

// Set reads a whole number with a unit.
func (s *Size) Set(text string) error {
	digits := strings.TrimRight(text, "KMGTiB ")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit := strings.TrimSpace(text[len(digits):])
	for i, u := range sizeUnits {
		if scale := int64(1) << (10 * i); u == unit && err == nil && 0 < n &&
			n <= math.MaxInt64/scale {
			*s = Size(n * scale)
			return nil
		}
	}
	return fmt.Errorf("%.64q is no size: give a whole number with B, KiB, MiB, GiB or TiB, "+
		"for example 512MiB", text)
}

// Type names the values in help texts.
func (s *Size) Type() string { return "SIZE" }
