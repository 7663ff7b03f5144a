package grpctx_test

import (
	"os"
	"testing"

	"github.com/gavel-tx/gavel/client/internal/banks"
)

// pure are the tests that need no database. -short leaves all others out.
const pure = "^(TestCodes|Example.*)$"

func TestMain(m *testing.M) {
	os.Exit(banks.Main(m, pure, nil))
}
