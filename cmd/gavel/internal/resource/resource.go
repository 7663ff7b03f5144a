// Package resource turns what an operator writes, NAME=URL, into a resource manager.
//
//	postgres://…            a PostgreSQL database, reached from this process
//	  ?gavel_owner_role=R   the role that owns prepared branches there
//	mysql://USER@HOST/DB    a MariaDB database, reached from this process; MySQL is experimental
//	grpc://HOST:PORT        a participant: the sidecar of a database, or a service
//	kv:DIR                  an embedded key-value store in DIR; kv:DIR?max_size=8GiB limits it
//	env:NAME                one of the above, held by an environment variable
//	file:PATH               one of the above, held by a file
//
// A URL may hold a password. Every user of a machine can read the arguments of its processes, so
// that env: and file: are the way to give one, and no error or log line of this package shows more
// of a URL than [Redact] leaves.
package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	driver "github.com/go-sql-driver/mysql"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// Kinds of resources.
const (
	KindPostgres = "postgres"
	KindMySQL    = "mysql"
	KindKV       = "kv"
	KindGRPC     = "grpc"
)

// maxFile bounds what a file: reference may hold, in bytes.
const maxFile = 16 << 10

// ownerParam is the part of a postgres URL that is ours and not the driver's.
const ownerParam = "gavel_owner_role"

// sizeParam is what a kv URL may say besides the directory.
const sizeParam = "max_size"

// Target is a parsed URL. It prints without secrets.
type Target struct {
	Kind string
	// DSN is what the driver gets. It may hold a password.
	DSN string
	// OwnerRole owns prepared branches; only for postgres.
	OwnerRole string
	// Dir is the directory of a key-value store, and MaxBytes what its file may hold. 0: as the
	// store has it by default.
	Dir      string
	MaxBytes int64
	// Addr is the address of a participant; for mysql the URL without its secrets.
	Addr string
}

// String is the URL without its secrets.
func (t Target) String() string {
	switch t.Kind {
	case KindKV:
		return "kv:" + t.Dir
	case KindGRPC:
		return "grpc://" + t.Addr
	case KindMySQL:
		return t.Addr
	}
	return Redact(t.DSN)
}

// Source is where references are looked up.
type Source struct {
	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
}

// Lookup resolves env: and file: references, one step deep: what is found must be a URL itself.
func (s Source) Lookup(ref string) (string, error) {
	kind, rest, _ := strings.Cut(ref, ":")
	switch kind {
	case "env":
		value := strings.TrimSpace(s.Getenv(rest))
		if value == "" {
			return "", exit.Usagef("Set it to a URL.", "the environment variable %s is empty", rest)
		}
		return value, nil
	case "file":
		return s.fromFile(rest)
	}
	return ref, nil
}

func (s Source) fromFile(path string) (string, error) {
	read := s.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	body, err := read(path)
	if err != nil {
		return "", &exit.Error{Code: exit.Usage, Err: err, Do: "Name a file that holds one URL.",
			What: fmt.Sprintf("read a URL from a file: %v", err)}
	}
	value := strings.TrimSpace(string(body))
	if value == "" || len(body) > maxFile || strings.ContainsAny(value, "\r\n") {
		return "", exit.Usagef("Name a file that holds one URL.",
			"%s does not hold one line with a URL", path)
	}
	return value, nil
}

// Split reads NAME=URL.
func Split(s string) (name, ref string, err error) {
	name, ref, ok := strings.Cut(s, "=")
	if !ok || !validName(name) || ref == "" {
		// What stands there may be a URL with a password, without its name: it is not repeated.
		return "", "", exit.Usagef("For example: --resource bank_a=env:BANK_A_URL",
			"a resource is given as NAME=URL, with a name of 1 to %d characters of [A-Za-z0-9_.-]",
			txn.MaxResourceNameLen)
	}
	return name, ref, nil
}

func validName(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
	return s != "" && len(s) <= txn.MaxResourceNameLen && strings.Trim(s, letters) == ""
}

// CheckName refuses what cannot be the name of a resource.
func CheckName(name string) error {
	if !validName(name) {
		return exit.Usagef("", "%.64q is not a name of 1 to %d characters of [A-Za-z0-9_.-]",
			name, txn.MaxResourceNameLen)
	}
	return nil
}

// Parse reads a URL. Errors do not repeat it.
func Parse(text string) (Target, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "postgres", "postgresql":
		return parsePostgres(text)
	case "mysql", "mariadb":
		return parseMySQL(text)
	case "kv":
		return parseKV(rest)
	case "grpc":
		addr := strings.TrimPrefix(rest, "//")
		if !strings.HasPrefix(rest, "//") || addr == "" || strings.ContainsAny(addr, "/@?#") {
			return Target{}, badURL("grpc:// needs a host and a port, and nothing else")
		}
		return Target{Kind: KindGRPC, Addr: addr}, nil
	}
	return Target{}, badURL("the URL begins with none of postgres://, mysql://, grpc://, kv:")
}

// parseKV reads DIR or DIR?max_size=SIZE.
func parseKV(rest string) (Target, error) {
	dir, query, limited := strings.Cut(rest, "?")
	if dir == "" {
		return Target{}, badURL("kv: needs a directory")
	}
	t := Target{Kind: KindKV, Dir: dir}
	if !limited {
		return t, nil
	}
	text, ok := strings.CutPrefix(query, sizeParam+"=")
	if !ok {
		return Target{}, badURL("behind the ? of kv: there is %s=SIZE and nothing else", sizeParam)
	}
	var size ui.Size
	if err := size.Set(text); err != nil {
		return Target{}, badURL("%s: %v", sizeParam, err)
	}
	t.MaxBytes = int64(size)
	return t, nil
}

func badURL(format string, args ...any) error {
	return exit.Usagef("Resources are postgres://…, mysql://…, grpc://HOST:PORT, kv:DIR, or "+
		"env:NAME and file:PATH that hold one of these.", format, args...)
}

// parsePostgres takes our own parameter out of the URL: the driver would send it to the server.
func parsePostgres(text string) (Target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" {
		// The parser's error holds the URL, password and all.
		return Target{}, badURL("a postgres:// URL cannot be parsed; special characters of a " +
			"password must be percent-encoded")
	}
	q := u.Query()
	t := Target{Kind: KindPostgres, OwnerRole: q.Get(ownerParam)}
	q.Del(ownerParam)
	u.RawQuery = q.Encode()
	t.DSN = u.String()
	return t, nil
}

// parseMySQL writes the URL in the form of the driver, whose parameters it may have. The parameter
// socket names a Unix socket instead of host and port.
func parseMySQL(text string) (Target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" {
		// The parser's error holds the URL, password and all.
		return Target{}, badURL("a mysql:// URL cannot be parsed; special characters of a " +
			"password must be percent-encoded")
	}
	database := strings.TrimPrefix(u.Path, "/")
	if database == "" || strings.Contains(database, "/") {
		return Target{}, badURL("a mysql:// URL needs a database: mysql://USER@HOST:PORT/DATABASE")
	}
	q := u.Query()
	c := driver.NewConfig()
	c.User, c.DBName, c.Net = u.User.Username(), database, "tcp"
	c.Passwd, _ = u.User.Password()
	c.Addr = u.Host
	if u.Port() == "" {
		c.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	if socket := q.Get("socket"); socket != "" {
		c.Net, c.Addr = "unix", socket
		q.Del("socket")
	}
	// The driver reads its own parameters from the text that it has written.
	dsn := c.FormatDSN()
	if len(q) > 0 {
		sep := "?"
		if strings.Contains(dsn[strings.LastIndexByte(dsn, '/'):], "?") {
			sep = "&"
		}
		dsn += sep + q.Encode()
	}
	read, err := driver.ParseDSN(dsn)
	if err != nil {
		// This error may hold the password too.
		return Target{}, badURL("a mysql:// URL has parameters that the driver does not take")
	}
	if read.User != c.User || read.Passwd != c.Passwd || read.Net != c.Net ||
		read.Addr != c.Addr || read.DBName != c.DBName {
		// Its form has no escapes.
		return Target{}, badURL("a mysql:// URL has a user with a colon in it, or another name " +
			"that the driver would take for something else")
	}
	return Target{Kind: KindMySQL, DSN: dsn, Addr: Redact(text)}, nil
}

// Redact is a URL without its secrets, for people: user and password, and parameters that may hold
// one, are left out.
func Redact(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Scheme == "" {
		return "[not shown]"
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	for name := range q {
		if strings.Contains(strings.ToLower(name), "pass") {
			q.Del(name)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// Options are what a resource is opened with.
type Options struct {
	// TLS and Insecure secure the connection to participants.
	TLS      transport.TLS
	Insecure bool
	// ExperimentalMySQL allows a mysql:// URL to lead to a server that is no MariaDB.
	ExperimentalMySQL bool
	Logger            *slog.Logger
	// SQL, if not nil, is where the statements of clients are run: a PostgreSQL URL, for a resource
	// that is one. Sessions bounds them; 0 is the default.
	SQL      *Target
	Sessions int
	// Execute, for [OpenAll], has the resources at which this process may run SQL, with a reference
	// to the URL that SQL becomes; that of a participant is empty.
	Execute map[string]string
}

// Opened is a resource manager that is ready to be asked, whether it answers or not.
type Opened struct {
	Name, Kind string
	// Target is the parsed URL.
	Target  Target
	Manager participant.Resource
	// SQL is where the statements of clients are run, or nil. Manager is a *session.Keeper then.
	SQL *Target
}

// Close ends its connections.
func (o Opened) Close() error {
	if c, ok := o.Manager.(participant.Closer); ok {
		return c.Close()
	}
	return nil
}

// Open makes a resource manager. It does not wait for the resource to answer. The error of a
// resource that must not be reached in plaintext wraps transport.ErrPlaintext.
func Open(ctx context.Context, name string, t Target, o Options) (Opened, error) {
	out := Opened{Name: name, Kind: t.Kind, Target: t}
	var err error
	switch t.Kind {
	case KindGRPC:
		out.Manager, err = openRemote(name, t, o)
	case KindPostgres:
		out.SQL = o.SQL
		out.Manager, err = openPostgres(name, t, o)
	case KindMySQL:
		out.Manager, err = mysql.New(mysql.Config{Name: name, DSN: t.DSN,
			Experimental: o.ExperimentalMySQL})
	case KindKV:
		out.Manager, err = openKV(t)
	default:
		return out, badURL("a resource of kind %q cannot be opened", t.Kind)
	}
	if err != nil {
		return Opened{}, about(name, err)
	}
	return out, nil
}

// openKV refuses, and does not merely fail, where a store is in use: two processes on one store
// would each believe that it remembers everything.
func openKV(t Target) (participant.Resource, error) {
	store, err := kv.Open(kv.Config{Dir: t.Dir, MaxBytes: t.MaxBytes})
	if err != nil {
		return nil, InUse(t.Dir, err,
			"Stop that process, or reach the store through it: grpc://HOST:PORT.")
	}
	return store, nil
}

// InUse turns the error of a store that another process has open into one that says so, and what to
// do. It leaves others as they are.
func InUse(dir string, err error, do string) error {
	if !errors.Is(err, bbolterrors.ErrTimeout) {
		return err
	}
	return &exit.Error{Code: exit.Refused, Err: err, Data: "Nothing was changed.", Do: do,
		What: fmt.Sprintf("the store in %s is in use by another process", dir)}
}

func openRemote(name string, t Target, o Options) (participant.Resource, error) {
	opts := []remote.Option{remote.WithResource(name), remote.WithTLS(o.TLS)}
	if o.Insecure {
		opts = append(opts, remote.WithInsecure())
	}
	return remote.Dial(t.Addr, opts...)
}

// OpenAll opens what refs name, NAME to reference, in the order of the names. On error none is left
// open.
func OpenAll(
	ctx context.Context, src Source, refs map[string]string, o Options,
) (opened []Opened, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, CloseAll(opened))
			opened = nil
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		one, err := openRef(ctx, src, name, refs[name], o)
		if err != nil {
			return opened, err
		}
		opened = append(opened, one)
	}
	return opened, nil
}

func openRef(
	ctx context.Context, src Source, name, ref string, o Options,
) (Opened, error) {
	target, err := src.Target(name, ref)
	if err != nil {
		return Opened{}, err
	}
	if ref, ok := o.Execute[name]; ok {
		if o.SQL, err = executeAt(src, target, ref); err != nil {
			return Opened{}, about(name, err)
		}
	}
	return Open(ctx, name, target, o)
}

// Target is what a reference leads to, for the resource of that name.
func (s Source) Target(name, ref string) (Target, error) {
	text, err := s.Lookup(ref)
	if err != nil {
		return Target{}, about(name, err)
	}
	target, err := Parse(text)
	if err != nil {
		return Target{}, about(name, err)
	}
	return target, nil
}

// about puts the name of the resource before what is wrong with its URL.
func about(name string, err error) error {
	e := *exit.Of(err)
	e.What = fmt.Sprintf("resource %s: %s", name, e.What)
	return &e
}

// CloseAll closes every one.
func CloseAll(opened []Opened) error {
	var errs []error
	for _, o := range opened {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}
