package mariahost

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

// serverUser picks who runs the servers: the caller, unless that is root, which MariaDB refuses.
func serverUser() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{}, nil
	}
	for _, name := range []string{"mysql", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return owner{}, fmt.Errorf("mariahost: user %s: %w", u.Username, err)
		}
		return owner{drop: true, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return owner{}, errors.New("mariahost: MariaDB refuses to run as root, and this host has " +
		"neither a user mysql nor nobody: run as another user")
}

func (o owner) give(path string) error {
	if !o.drop {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// attributes run a program as the owner, and in a process group of its own, so that a Ctrl-C at the
// terminal reaches this process alone, which then stops its servers in order.
func (o owner) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if o.drop {
		attr.Credential = &syscall.Credential{Uid: o.uid, Gid: o.gid}
	}
	return attr
}

// process is a running server. err may be read once done is closed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// startProcess starts a server. One goroutine starts it, waits for it, and keeps its thread all
// that time: the kernel counts the death of the starting thread as the parent's death.
func startProcess(program string, args []string, log string, as owner) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env, p.cmd.Dir = environment(), filepath.Dir(log)
	p.cmd.SysProcAttr = as.attributes()
	endWithParent(p.cmd.SysProcAttr)
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

// signal reaches the server only while it has not been waited for, so that a process id that the
// system has given to somebody else is never signalled.
func (p *process) signal(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		// The signals used are valid and the process is our child: nothing else can fail.
		panic(fmt.Sprintf("mariahost: signal %v to %d: %v", sig, p.pid(), err))
	}
}

// kill ends the server, which is one process, and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// stopTimeout bounds a polite shutdown.
const stopTimeout = 20 * time.Second

// stop asks for a shutdown and waits for it; kill is the last word.
func (p *process) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
	}
}

// environment leaves out what is meant for the user's own servers.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/usr/bin", "LC_ALL=C", "TZ=UTC",
		"HOME=/nonexistent"}
}
