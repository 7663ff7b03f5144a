// Package settings is what a coordinator can be told, by flags and by a file with the same words:
//
//	data: /var/lib/gavel
//	resource:
//	  bank_a: env:BANK_A_URL
//	  bank_b: grpc://bank-b.internal:7450
//	grace: 2s
//
// A flag on the command line wins over the file; resources and accepted names add up. The file is
// read strictly: a key that is not known, or is there twice, is an error that shows its place.
package settings

import (
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

// Coordinator is everything that a coordinator can be told. The yaml tags are also the names of the
// flags.
type Coordinator struct {
	Data     string            `yaml:"data"`
	GRPC     string            `yaml:"grpc"`
	HTTP     string            `yaml:"http"`
	Resource map[string]string `yaml:"resource"`

	// Execute names the resources at which ExecuteTransaction may run SQL, with the URL at which
	// this process runs it. That of a participant is empty.
	Execute map[string]string `yaml:"execute"`

	AcceptForeign  []string `yaml:"accept-foreign"`
	AcceptIdentity []string `yaml:"accept-identity"`

	ExperimentalMySQL bool `yaml:"experimental-mysql"`

	Timeout     time.Duration `yaml:"timeout"`
	MaxTimeout  time.Duration `yaml:"max-timeout"`
	Grace       time.Duration `yaml:"grace"`
	Sweep       time.Duration `yaml:"sweep"`
	Retention   time.Duration `yaml:"retention"`
	Classic     bool          `yaml:"classic"`
	CallTimeout time.Duration `yaml:"call-timeout"`
	Drain       time.Duration `yaml:"drain"`

	Secure `yaml:",inline"`
	Log    `yaml:",inline"`
}

// Secure is how connections are secured.
type Secure struct {
	Cert     string `yaml:"tls-cert"`
	Key      string `yaml:"tls-key"`
	CA       string `yaml:"tls-ca"`
	Insecure bool   `yaml:"insecure"`
}

// TLS is the same for package transport.
func (s Secure) TLS() transport.TLS { return transport.TLS{Cert: s.Cert, Key: s.Key, CA: s.CA} }

// Log is how the journal is written.
type Log struct {
	Format string `yaml:"log-format"`
	Level  string `yaml:"log-level"`
}

// Defaults are the settings of a coordinator that was told nothing.
func Defaults() Coordinator {
	return Coordinator{GRPC: "127.0.0.1:7440", HTTP: "127.0.0.1:7441",
		Resource: map[string]string{}, Execute: map[string]string{},
		Timeout: 30 * time.Second, MaxTimeout: time.Hour, Grace: 2 * time.Second,
		Sweep: time.Second, Retention: 24 * time.Hour, CallTimeout: 5 * time.Second,
		Drain: 10 * time.Second, Log: Log{Format: "auto", Level: "info"}}
}

// Flags adds a flag for each setting, with the current values as defaults.
func (c *Coordinator) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Data, "data", c.Data, "`DIR` of the log, made by gavel log init")
	fs.StringVar(&c.GRPC, "grpc", c.GRPC, "`ADDR` of the API")
	fs.StringVar(&c.HTTP, "http", c.HTTP, "`ADDR` of /metrics, /livez and /readyz")
	AddResources(fs, c.Resource)
	fs.Var(allowed(c.Execute), "execute", "resource at which clients may run SQL in one call; URL "+
		"is that of the role that runs it, none for a participant, which has --sql")
	fs.StringSliceVar(&c.AcceptForeign, "accept-foreign", nil,
		"resource `NAME` to take over although another log has prepared branches in it")
	fs.StringSliceVar(&c.AcceptIdentity, "accept-identity", nil,
		"resource `NAME` whose database was replaced on purpose: believe who answers now")
	AddExperimental(fs, &c.ExperimentalMySQL)
	fs.DurationVar(&c.Timeout, "timeout", c.Timeout,
		"undecided life of a transaction that names none")
	fs.DurationVar(&c.MaxTimeout, "max-timeout", c.MaxTimeout, "longest a transaction may name")
	fs.DurationVar(&c.Grace, "grace", c.Grace, "time between two sightings of an orphan before it "+
		"is finished")
	fs.DurationVar(&c.Sweep, "sweep", c.Sweep, "time between two listings of a resource")
	fs.DurationVar(&c.Retention, "retention", c.Retention, "how long outcomes stay answerable")
	fs.BoolVar(&c.Classic, "classic", c.Classic, "never write an intent beside the prepares: a "+
		"crash then leaves nothing in doubt, and a commit waits one write of the log longer")
	fs.DurationVar(&c.CallTimeout, "call-timeout", c.CallTimeout, "bound of one call of a resource")
	fs.DurationVar(&c.Drain, "drain", c.Drain, "bound of an orderly end after SIGTERM")
	c.Secure.Flags(fs)
	c.Log.Flags(fs)
}

// Flags adds the flags of a server's and a client's side alike.
func (s *Secure) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.Cert, "tls-cert", s.Cert, "PEM `FILE` with the own certificate")
	fs.StringVar(&s.Key, "tls-key", s.Key, "PEM `FILE` with its private key")
	fs.StringVar(&s.CA, "tls-ca", s.CA, "PEM `FILE` with the authorities that the other side must "+
		"come from")
	fs.BoolVar(&s.Insecure, "insecure", s.Insecure, "allow plaintext beyond this machine")
}

// Flags adds the flags of the journal.
func (l *Log) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&l.Format, "log-format", l.Format,
		"`FORM` of the journal on stderr: auto, text or json")
	fs.StringVar(&l.Level, "log-level", l.Level,
		"lowest `LEVEL` of the journal: debug, info, warn, error")
}

// Logger makes the journal.
func (l Log) Logger(io ui.IO) (*slog.Logger, error) {
	var format ui.LogFormat
	if err := format.Set(l.Format); err != nil {
		return nil, exit.Usagef("", "log-format: %v", err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, exit.Usagef("", "log-level: %q is not one of debug, info, warn, error", l.Level)
	}
	return io.Logger(format, level), nil
}

// resources is the flag --resource NAME=URL, which may be given several times.
type resources map[string]string

// AddResources adds the flag --resource, which fills into.
func AddResources(fs *pflag.FlagSet, into map[string]string) {
	fs.Var(resources(into), "resource", "resource manager; URL is env:NAME, file:PATH, "+
		"grpc://HOST:PORT, kv:DIR, mysql://… or postgres://… (repeat the flag for more)")
}

// AddExperimental adds the flag --experimental-mysql.
func AddExperimental(fs *pflag.FlagSet, into *bool) {
	fs.BoolVar(into, "experimental-mysql", *into, "let mysql:// lead to a server that is no "+
		"MariaDB: no test of gavel has ever seen one")
}

func (r resources) String() string { return "" }

// Type names the values in help texts.
func (r resources) Type() string { return "NAME=URL" }

// Set adds one resource. Its error must not repeat s, which may hold a password; pflag would, so
// that a bad one is kept and refused by Check.
func (r resources) Set(s string) error {
	name, ref, err := resource.Split(s)
	if err != nil {
		r[""] = ""
		return nil
	}
	r[name] = ref
	return nil
}

// allowed is the flag --execute NAME[=URL], which may be given several times.
type allowed map[string]string

func (a allowed) String() string { return "" }

// Type names the values in help texts.
func (a allowed) Type() string { return "NAME[=URL]" }

// Set adds one resource. Like that of resources, its error must not repeat s.
func (a allowed) Set(s string) error {
	name, ref, _ := strings.Cut(s, "=")
	if resource.CheckName(name) != nil {
		name = ""
	}
	a[name] = ref
	return nil
}

// Check reports a --resource that could not be read.
func Check(refs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if _, _, err := resource.Split(name + "=" + refs[name]); err != nil {
			return err
		}
	}
	return nil
}

// Validate reports what is wrong with the settings as a whole.
func (c Coordinator) Validate() error {
	if c.Data == "" {
		return exit.Usagef("Give --data DIR; `gavel log init DIR` makes a log there.",
			"no directory of a log is named")
	}
	for _, name := range slices.Concat(c.AcceptForeign, c.AcceptIdentity) {
		if _, ok := c.Resource[name]; !ok {
			return exit.Usagef("", "--accept-foreign and --accept-identity name %q, which is no "+
				"--resource", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Execute)) {
		if _, ok := c.Resource[name]; !ok {
			return exit.Usagef("For example: --execute bank_a, for a --resource of that name.",
				"--execute names %q, which is no --resource", name)
		}
	}
	for _, d := range []time.Duration{c.Timeout, c.MaxTimeout, c.Grace, c.Sweep, c.Retention,
		c.CallTimeout, c.Drain} {
		if d <= 0 {
			return exit.Usagef("", "a duration is %v; all must be above zero", d)
		}
	}
	if c.Timeout > c.MaxTimeout {
		return exit.Usagef("", "--timeout %v is longer than --max-timeout %v", c.Timeout,
			c.MaxTimeout)
	}
	return Check(c.Resource)
}

// Under puts c, as the command line has it, over what a file says: a setting whose flag was given
// stays, maps and lists add up, everything else comes from the file.
func (c *Coordinator) Under(file Coordinator, given func(flag string) bool) {
	under(reflect.ValueOf(c).Elem(), reflect.ValueOf(file), given)
}

func under(flags, file reflect.Value, given func(string) bool) {
	for i := range flags.NumField() {
		field, to, from := flags.Type().Field(i), flags.Field(i), file.Field(i)
		name := field.Tag.Get("yaml")
		switch {
		case field.Anonymous:
			under(to, from, given)
		case to.Kind() == reflect.Map:
			for _, key := range from.MapKeys() {
				if !to.MapIndex(key).IsValid() {
					to.SetMapIndex(key, from.MapIndex(key))
				}
			}
		case to.Kind() == reflect.Slice:
			to.Set(reflect.AppendSlice(from, to))
		case !given(name):
			to.Set(from)
		}
	}
}
