package crash_test

import (
	"math/rand/v2"
	"testing"

	"github.com/gavel-tx/gavel/client/remote"
)

// ground is the network that the processes of a world stand in.
type ground interface {
	// address is where a program is to listen.
	address(t *testing.T, name string, rng *rand.Rand) string
	// place puts a program where it belongs.
	place(program) program
	// target is where the coordinator reaches who listens at an address.
	target(address string) string
	// flags are those that servers need here.
	flags() []string
	// local says that the databases are reached by their sockets.
	local() bool
	// dialing is how the test reaches the coordinator.
	dialing() []remote.Option
}

// loopback has all programs on 127.0.0.1.
type loopback struct{}

func (loopback) address(t *testing.T, _ string, rng *rand.Rand) string {
	t.Helper()
	return freeAddress(t, rng)
}

func (loopback) place(p program) program  { return p }
func (loopback) target(a string) string   { return a }
func (loopback) flags() []string          { return nil }
func (loopback) local() bool              { return false }
func (loopback) dialing() []remote.Option { return nil }
