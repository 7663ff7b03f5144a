package httptx_test

import (
	"net/http"
	"os"
	"testing"

	"github.com/gavel-tx/gavel/client/internal/banks"
)

// pure are the tests that need no database. -short leaves all others out.
const pure = "^(Example.*)$"

func TestMain(m *testing.M) {
	os.Exit(banks.Main(m, pure, http.DefaultClient.CloseIdleConnections))
}
