package crash_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// report is one step that a process has reached.
type report struct {
	step string
	pid  int
	id   string
	at   time.Duration
}

func (r report) String() string {
	return fmt.Sprintf("%9.3fs  pid %d  %-20s  %s", r.at.Seconds(), r.pid, r.step, r.id)
}

// held is a process that waits at a step for the word to go on.
type held struct {
	report
	conn net.Conn
}

// release lets it go on. The process may be dead by now.
func (h held) release() {
	_, _ = h.conn.Write([]byte("\n"))
	h.conn.Close()
}

// trap catches the first process at a step, after skip others went by.
type trap struct {
	step   string
	skip   int
	caught chan held
}

// maxTrace bounds the reports that are kept for a failure's story.
const maxTrace = 400

// post is where processes report their steps. Everybody goes on at once, but for the one that the
// trap catches.
type post struct {
	socket   string
	listener net.Listener
	start    time.Time
	join     sync.WaitGroup

	mu struct {
		sync.Mutex
		trap *trap
		// dead are killed processes: what they have still sent must not be taken for a process
		// that can be held.
		dead  map[int]bool
		trace []report
		count int
	}
}

// openPost listens in dir, whose name must be short: a socket's address has about a hundred bytes.
func openPost(dir string) (*post, error) {
	p := &post{socket: filepath.Join(dir, "post"), start: time.Now()}
	p.mu.dead = map[int]bool{}
	var err error
	if p.listener, err = net.Listen("unix", p.socket); err != nil {
		return nil, err
	}
	p.join.Go(p.accept)
	return p, nil
}

func (p *post) close() error {
	err := p.listener.Close()
	p.join.Wait()
	return err
}

func (p *post) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.join.Go(func() { p.receive(conn) })
	}
}

// receive takes one report. A process that dies while it sends one has not reported.
func (p *post) receive(conn net.Conn) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	r := report{at: time.Since(p.start)}
	if err == nil {
		_, err = fmt.Sscanf(line, "%s %d %s", &r.step, &r.pid, &r.id)
	}
	if err != nil {
		conn.Close()
		return
	}
	h := held{r, conn}
	if t := p.arrive(r); t != nil {
		t.caught <- h
		return
	}
	h.release()
}

// arrive notes a report, and returns the trap that has caught it.
func (p *post) arrive(r report) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.trace) == maxTrace {
		p.mu.trace = append(p.mu.trace[:0], p.mu.trace[maxTrace/2:]...)
	}
	p.mu.trace = append(p.mu.trace, r)
	p.mu.count++
	t := p.mu.trap
	if t == nil || t.step != r.step || p.mu.dead[r.pid] {
		return nil
	}
	if t.skip > 0 {
		t.skip--
		return nil
	}
	p.mu.trap = nil
	return t
}

// arm sets a trap. There is one at a time.
func (p *post) arm(step string, skip int) *trap {
	t := &trap{step: step, skip: skip, caught: make(chan held, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.trap = t
	return t
}

// arrivals is how many reports there have been.
func (p *post) arrivals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.count
}

// bury says that a process is dead, and born that one lives that may have an old one's number.
func (p *post) bury(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.dead[pid] = true
}

func (p *post) born(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.dead, pid)
}

// story is the newest reports, oldest first.
func (p *post) story(most int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, r := range p.mu.trace[max(0, len(p.mu.trace)-most):] {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// shortDir is a directory in which a socket can be bound.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gavel-post-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newPost(t *testing.T) *post {
	t.Helper()
	p, err := openPost(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return p
}

// tell reports a step as a process does, and returns the connection on which the word comes.
func tell(t *testing.T, p *post, line string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintln(conn, line)
	return conn
}

// goesOn waits for the word.
func goesOn(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatalf("no word to go on: %v", err)
	}
}

func TestPostHoldsOneAndLetsOthersGo(t *testing.T) {
	p := newPost(t)
	goesOn(t, tell(t, p, "beforeSend 1 x"))
	trap := p.arm("beforeSend", 1)
	goesOn(t, tell(t, p, "afterSend 1 x"))
	goesOn(t, tell(t, p, "beforeSend 1 skipped"))
	caught := tell(t, p, "beforeSend 1 caught")
	h := <-trap.caught
	if h.id != "caught" || h.pid != 1 || h.step != "beforeSend" {
		t.Errorf("caught %v", h.report)
	}
	goesOn(t, tell(t, p, "beforeSend 1 later"))
	h.release()
	goesOn(t, caught)
	if got := strings.Count(p.story(100), "\n"); got != 5 || p.arrivals() != 5 {
		t.Errorf("the story has %d reports: %s", got, p.story(100))
	}
}

func TestPostCatchesNoDeadProcess(t *testing.T) {
	p := newPost(t)
	p.bury(7)
	trap := p.arm("beforeSend", 0)
	goesOn(t, tell(t, p, "beforeSend 7 late"))
	p.born(7)
	tell(t, p, "beforeSend 7 alive")
	h := <-trap.caught
	defer h.release()
	if h.id != "alive" {
		t.Errorf("caught %v", h.report)
	}
}

func TestPostKeepsABoundedStory(t *testing.T) {
	p := newPost(t)
	for i := range 2 * maxTrace {
		p.arrive(report{step: "beforeSend", pid: i})
	}
	if n := strings.Count(p.story(2*maxTrace), "\n"); n > maxTrace || n < maxTrace/2 {
		t.Errorf("%d reports are kept", n)
	}
	if s := p.story(1); !strings.Contains(s, fmt.Sprintf("pid %d ", 2*maxTrace-1)) {
		t.Errorf("the newest is not the last: %s", s)
	}
}
