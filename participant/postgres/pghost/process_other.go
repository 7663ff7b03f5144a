//go:build unix && !linux

package pghost

import "syscall"

// endWithParent can do nothing here: only Linux tells a child of its parent's death.
func endWithParent(*syscall.SysProcAttr) {}

// childrenOf lists nobody: without /proc the children are left to notice the postmaster's death
// themselves, which they do within moments.
func childrenOf(int) []int { return nil }

func alive(int) bool { return false }
