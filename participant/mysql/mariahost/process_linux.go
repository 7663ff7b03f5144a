package mariahost

import "syscall"

// endWithParent has the kernel end a server at once when we die without stopping it.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
