package pghost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// owner is the operating system's user that servers run as. The zero owner is the caller itself.
type owner struct {
	drop     bool
	uid, gid uint32
}

// serverUser picks who runs the servers: the caller, unless that is root, which PostgreSQL refuses.
func serverUser() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return parseOwner(u)
		}
	}
	return owner{}, errors.New(
		"pghost: PostgreSQL refuses to run as root, and this host has neither " +
			"a user postgres nor nobody: run as another user",
	)
}

func parseOwner(u *user.User) (owner, error) {
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return owner{}, fmt.Errorf("pghost: user %s: %w", u.Username, err)
	}
	return owner{drop: true, uid: uint32(uid), gid: uint32(gid)}, nil
}

func (o owner) give(path string) error {
	if !o.drop {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// canEnter finds the directory above a server's own that its user may not pass. Left to itself this
// ends in a "permission denied" about a program that is perfectly executable.
func (o owner) canEnter(dir string) error {
	if !o.drop {
		return nil
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !o.mayPass(info) {
			return fmt.Errorf(
				"the server must not run as root and runs as user %d, who may not enter %s: "+
					"choose another directory or 'chmod o+x' that one",
				o.uid,
				dir,
			)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (o owner) mayPass(info os.FileInfo) bool {
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	switch {
	case sys.Uid == o.uid:
		return info.Mode()&0o100 != 0
	case sys.Gid == o.gid:
		return info.Mode()&0o010 != 0
	default:
		return info.Mode()&0o001 != 0
	}
}

// attributes run a program as the owner, and in a process group of its own, so that a Ctrl-C at the
// terminal reaches this process alone, which then stops its servers in order.
func (o owner) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if o.drop {
		attr.Credential = &syscall.Credential{Uid: o.uid, Gid: o.gid}
	}
	endWithParent(attr)
	return attr
}

// process is a running postmaster. err may be read once done is closed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// startProcess starts a server. One goroutine starts it, waits for it, and keeps its thread all
// that time: the kernel counts the death of the starting *thread* as the parent's death, and a
// thread that Go retires would take the server with it.
func startProcess(program string, args []string, log string, as owner) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env, p.cmd.Dir, p.cmd.SysProcAttr = environment(), filepath.Dir(log), as.attributes()
	started := make(chan error)
	go func() {
		defer close(p.done)
		defer out.Close()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("run %s: %w", program, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal reaches the postmaster only while it has not been waited for, so that a process id that
// the system has given to somebody else is never signalled.
func (p *process) signal(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		// The signals used are valid and the process is our child: nothing else can fail.
		panic(fmt.Sprintf("pghost: signal %v to %d: %v", sig, p.pid(), err))
	}
}

// kill ends the postmaster and its children, and waits until they are gone. The postmaster is
// stopped first: otherwise it would see its children die, and start new ones in between. Children
// that outlived it would hold the shared memory and make the next start fail.
func (p *process) kill() {
	if p.ended() {
		return
	}
	p.signal(syscall.SIGSTOP)
	children := childrenOf(p.pid())
	for _, pid := range children {
		// A child that has just ended is a zombie of the stopped postmaster, so its id is not
		// reused.
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	p.signal(syscall.SIGKILL)
	<-p.done
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for _, pid := range children {
		for alive(pid) {
			<-tick.C
		}
	}
}

// stop asks for a fast shutdown and waits for it; kill is the last word. The server has closed its
// files and freed its port when stop returns.
func (p *process) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if !p.ended() {
		p.signal(syscall.SIGINT)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
	}
}
