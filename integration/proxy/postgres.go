package proxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Postgres is a Relay to a PostgreSQL server.
type Postgres struct {
	*Relay

	armed struct {
		sync.Mutex
		traps []*Trap
	}
}

// ListenPostgres makes a proxy of the server at target, on a free port of 127.0.0.1.
func ListenPostgres(target string) (*Postgres, error) {
	relay, err := listen(target)
	if err != nil {
		return nil, err
	}
	p := &Postgres{Relay: relay}
	relay.start(p.carry)
	return p, nil
}

// maxArmed bounds the faults that wait for their message.
const maxArmed = 16

// Arm sets a fault. Several may be armed at once; of two that want the same message, the older
// strikes. It panics where a test forgets to disarm.
func (p *Postgres) Arm(f Fault) *Trap {
	t := newTrap(f)
	p.armed.Lock()
	defer p.armed.Unlock()
	if len(p.armed.traps) == maxArmed {
		panic(fmt.Sprintf("proxy: %d faults are armed already", maxArmed))
	}
	p.armed.traps = append(p.armed.traps, t)
	return t
}

// Disarm takes back every fault that has not struck. What is held stays held.
func (p *Postgres) Disarm() {
	p.armed.Lock()
	defer p.armed.Unlock()
	p.armed.traps = nil
}

// spring returns the trap that a message has fallen into, which is armed no more.
func (p *Postgres) spring(hit func(Fault) bool) *Trap {
	p.armed.Lock()
	defer p.armed.Unlock()
	for i, t := range p.armed.traps {
		if !hit(t.fault) {
			continue
		}
		if t.skip > 0 {
			t.skip--
			continue
		}
		p.armed.traps = slices.Delete(p.armed.traps, i, i+1)
		return t
	}
	return nil
}

// errLost ends a link on purpose.
var errLost = errors.New("proxy: the message is lost")

// suffer does to a message what the trap says. A nil error forwards it.
func (p *Postgres) suffer(l *link, t *Trap) error {
	if t == nil {
		return nil
	}
	if !t.fault.holds() {
		// The connection is gone before anybody hears that it is.
		l.cut()
		close(t.caught)
		return errLost
	}
	close(t.caught)
	select {
	case <-t.freed:
		return nil
	case <-p.quit.Done():
		return errLost
	}
}

func (p *Postgres) carry(l *link) {
	in := bufio.NewReader(l.client)
	if err := startUp(l, in); err != nil {
		return
	}
	texts := texts{parsed: map[string]string{}, bound: map[string]string{}}
	both(l,
		func() error {
			return p.forward(in, l.server, ToTarget, func(m message) error {
				return p.request(l, &texts, m)
			})
		},
		func() error {
			return p.forward(bufio.NewReader(l.server), l.client, ToClient, func(m message) error {
				return p.reply(l, m)
			})
		})
}

// The codes that stand in place of a protocol version in a first message.
const (
	codeSSL    = 80877103
	codeGSSEnc = 80877104
)

// startUp forwards the first message, which has no type. Requests for encryption are refused, and
// another first message follows.
func startUp(l *link, in io.Reader) error {
	for {
		first := make([]byte, 8)
		if _, err := io.ReadFull(in, first); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(first)
		switch code := binary.BigEndian.Uint32(first[4:]); code {
		case codeSSL, codeGSSEnc:
			if _, err := l.client.Write([]byte("N")); err != nil {
				return err
			}
			continue
		}
		if size < 8 || size > maxMessage {
			return fmt.Errorf("proxy: a first message of %d bytes", size)
		}
		rest := make([]byte, size-8)
		if _, err := io.ReadFull(in, rest); err != nil {
			return err
		}
		_, err := l.server.Write(append(first, rest...))
		return err
	}
}

// message is one typed message. body aliases whole.
type message struct {
	kind        byte
	body, whole []byte
}

const (
	headSize = 5
	// maxMessage bounds a message, in bytes; the tests send nothing near it.
	maxMessage = 64 << 20
)

// read reads one message into buf, or a larger one.
func read(in io.Reader, buf []byte) (message, error) {
	buf = append(buf[:0], make([]byte, headSize)...)
	if _, err := io.ReadFull(in, buf); err != nil {
		return message{}, err
	}
	size := binary.BigEndian.Uint32(buf[1:])
	if size < 4 || size > maxMessage {
		return message{}, fmt.Errorf("proxy: a message %q of %d bytes", buf[0], size)
	}
	buf = append(buf, make([]byte, size-4)...)
	if _, err := io.ReadFull(in, buf[headSize:]); err != nil {
		return message{}, fmt.Errorf("proxy: a message %q breaks off: %v", buf[0], err)
	}
	return message{kind: buf[0], body: buf[headSize:], whole: buf}, nil
}

// forward carries messages until there are no more. look sees each before it is forwarded. The
// pieces of one packet stay together, because a test of lost messages must not slow all others
// down.
func (p *Postgres) forward(
	in *bufio.Reader, to io.Writer, d Direction, look func(message) error,
) error {
	out := bufio.NewWriter(to)
	var buf []byte
	for {
		m, err := read(in, buf)
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		buf = m.whole
		if err := p.gates[d].pass(p.quit); err != nil {
			return err
		}
		if err := look(m); err != nil {
			return err
		}
		if _, err := out.Write(m.whole); err != nil {
			return err
		}
		if in.Buffered() > 0 {
			continue
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// texts follow the extended protocol of one link: a statement is parsed, bound to a portal, and
// executed, by names. Only the goroutine of the requests uses it.
type texts struct{ parsed, bound map[string]string }

// text is the SQL that a message asks to run, or "".
func (t *texts) text(m message) (string, error) {
	switch m.kind {
	case 'Q':
		var q pgproto3.Query
		err := q.Decode(m.body)
		return q.String, err
	case 'P':
		var parse pgproto3.Parse
		err := parse.Decode(m.body)
		t.parsed[parse.Name] = parse.Query
		return "", err
	case 'B':
		var bind pgproto3.Bind
		err := bind.Decode(m.body)
		t.bound[bind.DestinationPortal] = t.parsed[bind.PreparedStatement]
		return "", err
	case 'E':
		var execute pgproto3.Execute
		err := execute.Decode(m.body)
		return t.bound[execute.Portal], err
	case 'C':
		var gone pgproto3.Close
		err := gone.Decode(m.body)
		if gone.ObjectType == 'S' {
			delete(t.parsed, gone.Name)
		} else {
			delete(t.bound, gone.Name)
		}
		return "", err
	}
	return "", nil
}

// request looks at what a client asks for.
func (p *Postgres) request(l *link, t *texts, m message) error {
	sql, err := t.text(m)
	if err != nil {
		return fmt.Errorf("proxy: a message %q: %w", m.kind, err)
	}
	if sql == "" {
		return nil
	}
	return p.suffer(l, p.spring(func(f Fault) bool { return f.onRequest() && f.Statement.in(sql) }))
}

// reply looks at what the server answers. A statement that failed has no command tag: its reply is
// not the one that is looked for.
func (p *Postgres) reply(l *link, m message) error {
	if m.kind != 'C' {
		return nil
	}
	var done pgproto3.CommandComplete
	if err := done.Decode(m.body); err != nil {
		return fmt.Errorf("proxy: a command tag: %w", err)
	}
	tag := string(done.CommandTag)
	return p.suffer(l, p.spring(func(f Fault) bool {
		return !f.onRequest() && f.Statement.String() == tag
	}))
}
