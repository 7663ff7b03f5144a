package pghost

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// endWithParent has the kernel shut a server down at once when we die without stopping it.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		panic("pghost: a constant pattern is malformed: " + err.Error())
	}
	var children []int
	for _, stat := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			continue
		}
		if _, parent := statOf(child); parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// alive says whether a process still runs. A zombie does not: it has let go of its memory, and on a
// host whose first process collects nobody it stays a zombie.
func alive(pid int) bool {
	state, _ := statOf(pid)
	return state != 0 && state != 'Z' && state != 'X'
}

// statOf reads state and parent of a process; both are zero for one that is gone. The name in front
// of them is in parentheses and may itself contain some.
func statOf(pid int) (state byte, parent int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, 0
	}
	if parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return 0, 0
	}
	return fields[0][0], parent
}
