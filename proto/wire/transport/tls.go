package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// TLS names the files of one side of a connection. The zero TLS means plaintext.
type TLS struct {
	// Cert and Key are PEM files: the own certificate with its intermediates, and its private
	// key. A server needs both; a client needs both where the server asks for them.
	Cert, Key string
	// CA is a PEM file with the authorities that the other side's certificate must come from. A
	// server with a CA asks every client for a certificate. Defaults to no client certificates on
	// a server, and to the system's authorities on a client.
	CA string
	// Reloaded, if set, is called after every attempt to load changed files, with its error. It
	// is called within a handshake and must not block.
	Reloaded func(error)
}

// IsZero says whether no file is named.
func (t TLS) IsZero() bool { return t.Cert == "" && t.Key == "" && t.CA == "" }

func (t TLS) validate(server bool) error {
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("transport: a certificate and its key must be given together")
	}
	if server && t.Cert == "" {
		return errors.New("transport: a TLS server needs a certificate and its key")
	}
	return nil
}

// ServerConfig is the configuration of a TLS server, for what is not gRPC. It follows changes of
// the files by itself.
func ServerConfig(t TLS) (*tls.Config, error) {
	s, err := newStore(t, true)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := s.current().server()
			c.NextProtos = []string{"h2", "http/1.1"}
			return c, nil
		},
	}, nil
}

// material is what the files held at one moment. It is never changed once made.
type material struct {
	certs []tls.Certificate
	pool  *x509.CertPool
	marks [3]mark
}

// mark tells one version of a file from the next. The inode is in it because a renewal by rename
// may keep size and, on coarse clocks, time.
type mark struct {
	size int64
	time time.Time
	info os.FileInfo
}

func (m mark) same(o mark) bool {
	if m.info == nil || o.info == nil {
		return m.info == nil && o.info == nil
	}
	return m.size == o.size && m.time.Equal(o.time) && os.SameFile(m.info, o.info)
}

func (m *material) server() *tls.Config {
	c := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: m.certs,
		// A resumed session would carry the client's proof over a change of the authorities.
		SessionTicketsDisabled: true,
	}
	if m.pool != nil {
		c.ClientCAs, c.ClientAuth = m.pool, tls.RequireAndVerifyClientCert
	}
	return c
}

func (m *material) client() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: m.certs, RootCAs: m.pool}
}

// store holds the newest good material.
type store struct {
	files TLS

	mu   sync.Mutex
	last *material
}

func newStore(t TLS, server bool) (*store, error) {
	if err := t.validate(server); err != nil {
		return nil, err
	}
	m, err := load(t)
	if err != nil {
		return nil, err
	}
	return &store{files: t, last: m}, nil
}

// current is the newest material that could be loaded. Changed files that cannot be used are
// tried again at the next handshake, since their marks are not taken over.
func (s *store) current() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.marks == marksOf(s.files, s.last.marks) {
		return s.last
	}
	m, err := load(s.files)
	if err == nil {
		s.last = m
	}
	if s.files.Reloaded != nil {
		s.files.Reloaded(err)
	}
	return s.last
}

// marksOf looks at the files. A mark that is the same as in old is returned as old's, which makes
// two sets of marks comparable.
func marksOf(t TLS, old [3]mark) [3]mark {
	var marks [3]mark
	for i, path := range []string{t.Cert, t.Key, t.CA} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err == nil {
			marks[i] = mark{size: info.Size(), time: info.ModTime(), info: info}
		}
		if marks[i].same(old[i]) {
			marks[i] = old[i]
		}
	}
	return marks
}

// load takes the marks before it reads, so that a change in between is noticed next time.
func load(t TLS) (*material, error) {
	m := &material{marks: marksOf(t, [3]mark{})}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("transport: load certificate %s: %w", t.Cert, err)
		}
		m.certs = []tls.Certificate{pair}
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("transport: read authorities: %w", err)
		}
		m.pool = x509.NewCertPool()
		if !m.pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("transport: %s holds no certificate of an authority", t.CA)
		}
	}
	return m, nil
}

// reloading gives every handshake the newest material.
type reloading struct{ store *store }

func (r *reloading) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(r.store.current().client()).ClientHandshake(ctx, authority, conn)
}

func (r *reloading) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(r.store.current().server()).ServerHandshake(conn)
}

func (r *reloading) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone shares the store: its material is never changed.
func (r *reloading) Clone() credentials.TransportCredentials { return &reloading{r.store} }

// OverrideServerName is refused: the name that a certificate must carry is the one that was
// dialled.
func (r *reloading) OverrideServerName(string) error {
	return errors.New("transport: the server's name cannot be overridden")
}
