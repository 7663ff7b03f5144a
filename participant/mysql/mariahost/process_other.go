//go:build unix && !linux

package mariahost

import "syscall"

// endWithParent can do nothing here: only Linux tells a child of its parent's death.
func endWithParent(*syscall.SysProcAttr) {}
