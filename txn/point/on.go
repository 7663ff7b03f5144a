//go:build failpoints

package point

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/gavel-tx/gavel/txn"
)

// Enabled says whether this build has failpoints.
const Enabled = true

// names are the words of the steps on the socket, in their order.
var names = [...]string{
	"afterBegin", "beforePrepareSend", "beforeIntent", "afterIntent", "afterVote", "beforeForce",
	"afterForceBeforeSend", "beforeSend", "afterSend", "beforeAckClient", "afterAck", "beforeEnd",
	"duringCheckpoint", "duringRoll", "duringRecovery",
}

func (s Step) String() string { return names[s] }

// Steps lists every step.
func Steps() []Step {
	all := make([]Step, len(names))
	for i := range all {
		all[i] = Step(i)
	}
	return all
}

// address is the socket of the test, if there is one.
var address = sync.OnceValue(func() string { return os.Getenv("GAVEL_POINTS") })

// Hit tells the test of a step and waits for its word. Each hit has a connection of its own, so
// that goroutines wait independently. A test that is gone stops nobody.
func Hit(s Step, id txn.ID) {
	if address() == "" {
		return
	}
	conn, err := net.Dial("unix", address())
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %d %s\n", s, os.Getpid(), id)
	_, _ = bufio.NewReader(conn).ReadString('\n')
}
