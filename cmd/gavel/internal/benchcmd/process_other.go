//go:build unix && !linux

package benchcmd

import "syscall"

// attributes put the process into a group of its own, so that a Ctrl-C reaches only the benchmark,
// which ends it in its own time.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
