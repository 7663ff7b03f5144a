package examples

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// process is a server that was started by its command line, and ends with the test.
type process struct {
	// grpc and http are its addresses, as it has told them.
	grpc, http string
	cmd        *exec.Cmd
	journal    *os.File
	ended      chan struct{}
}

// start starts a server, and returns when it has told as many addresses as it serves.
func start(t *testing.T, addresses int, env []string, command ...string) *process {
	t.Helper()
	journal, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), journal
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, journal: journal, ended: make(chan struct{})}
	started, told := make(chan error, 1), make(chan error, 1)
	go p.live(out, addresses, started, told)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	if err := <-told; err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, p.tail())
	}
	return p
}

// live keeps one thread for the life of the process, which the kernel ends with the thread that
// started it. It reads the addresses, and drops whatever else is said.
func (p *process) live(out io.Reader, addresses int, started, told chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.ended)
	err := p.cmd.Start()
	if started <- err; err != nil {
		return
	}
	lines := bufio.NewScanner(out)
	for addresses > 0 && lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) > 1 && words[0] == "gRPC":
			p.grpc, addresses = words[1], addresses-1
		case len(words) > 1 && words[0] == "HTTP":
			p.http, addresses = strings.TrimPrefix(words[1], "http://"), addresses-1
		}
	}
	if addresses > 0 {
		told <- errors.New("it ended, and told no address")
	}
	close(told)
	_, _ = io.Copy(io.Discard, out)
	_ = p.cmd.Wait()
}

// end kills it. What must survive that is another test's business.
func (p *process) end() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.journal.Close()
}

// tail is the end of its journal, for a failure's story.
func (p *process) tail() string {
	text, err := os.ReadFile(p.journal.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// said is how a program ended, and everything that it printed.
type said struct {
	code int
	text string
}

// run runs a program to its end.
func run(t *testing.T, env []string, command ...string) said {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String()}
}

// must is run for what is no subject of the test.
func must(t *testing.T, env []string, command ...string) {
	t.Helper()
	if s := run(t, env, command...); s.code != 0 {
		t.Fatalf("%s: exit %d\n%s", strings.Join(command, " "), s.code, s.text)
	}
}
