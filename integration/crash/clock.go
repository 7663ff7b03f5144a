package crash

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now is a clock that all processes of a machine share and that nobody sets: the kernel's monotonic
// one. What one process stamps before it asks, and another after it was answered, can be put into
// an order by it.
func Now() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		// The clock is there since before this module's oldest kernel.
		panic(fmt.Sprintf("crash: the monotonic clock: %v", err))
	}
	return time.Duration(at.Nano())
}
