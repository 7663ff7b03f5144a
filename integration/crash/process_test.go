package crash_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/gavel-tx/gavel/txn"
)

// program is what to start.
type program struct {
	name string
	path string
	args []string
	env  []string
	// journal is the file that its standard error, and its output without a reader, is added to.
	journal string
	// line, if not nil, is called for each line of its standard output, from one goroutine.
	line func([]byte)
}

// process is one life of a program.
type process struct {
	program
	cmd    *exec.Cmd
	orders io.WriteCloser
	killed atomic.Bool
	// done is closed when it has ended and all of its lines were read. err is how it ended.
	done chan struct{}
	err  error
}

// start starts a program in a process group of its own. One goroutine starts it and waits for it on
// one thread: the kernel kills it when that *thread* dies (Pdeathsig), which must happen only when
// this process does.
func (p program) start() (*process, error) {
	r := &process{program: p, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(r.done)
		journal, out, err := r.prepare()
		if err == nil {
			defer journal.Close()
			err = r.cmd.Start()
		}
		started <- err
		if err == nil {
			r.read(out)
			r.err = r.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-r.done
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return r, nil
}

func (r *process) prepare() (journal *os.File, out io.Reader, err error) {
	journal, err = os.OpenFile(r.journal, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	r.cmd = exec.Command(r.path, r.args...)
	r.cmd.Env = append(os.Environ(), r.env...)
	r.cmd.Stderr, r.cmd.Stdout = journal, journal
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if r.orders, err = r.cmd.StdinPipe(); err == nil && r.line != nil {
		r.cmd.Stdout = nil
		out, err = r.cmd.StdoutPipe()
	}
	if err != nil {
		journal.Close()
	}
	return journal, out, err
}

// read hands on every line, to the end: a killed process has written some that nobody has read yet.
func (r *process) read(out io.Reader) {
	if out == nil {
		return
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		r.line(lines.Bytes())
	}
}

// order writes a line to its standard input. One that is dead hears nothing.
func (r *process) order(text string) { _, _ = io.WriteString(r.orders, text+"\n") }

func (r *process) pid() int { return r.cmd.Process.Pid }

// kill ends it by SIGKILL, and returns when it is gone.
func (r *process) kill() {
	r.killed.Store(true)
	_ = r.cmd.Process.Kill()
	<-r.done
}

// lost says whether it has ended although nobody killed it.
func (r *process) lost() bool {
	select {
	case <-r.done:
		return !r.killed.Load()
	default:
		return false
	}
}

// journal reads what was added to a journal since the last call.
type journal struct {
	file   string
	offset int64
}

func (j *journal) news() (string, error) {
	f, err := os.Open(j.file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, j.offset, 1<<40))
	j.offset += int64(len(text))
	return string(text), err
}

// alarm is a line of a journal that a person would be called for.
type alarm struct {
	Level string
	// ID is the transaction that the line is about, if it is about one.
	ID txn.ID `json:"transaction"`
	// Name is the prepared name that the line is about, if it is about one.
	Name string `json:"name"`
	text string
}

// alarms are those of a journal. What is no line of a journal is what a dying process wrote, or the
// words that a person is greeted with.
func alarms(text string) []alarm {
	var out []alarm
	for line := range strings.Lines(text) {
		a := alarm{text: strings.TrimSpace(line)}
		err := json.Unmarshal([]byte(line), &a)
		if err == nil && a.Level == "ERROR" || strings.HasPrefix(line, "panic:") {
			out = append(out, a)
		}
	}
	return out
}

// tail is the end of a file, for a failure's story.
func tail(file string, most int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
