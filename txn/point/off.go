//go:build !failpoints

package point

import "github.com/gavel-tx/gavel/txn"

// Enabled says whether this build has failpoints.
const Enabled = false

// Hit does nothing.
func Hit(Step, txn.ID) {}
