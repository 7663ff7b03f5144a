package crash

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Mode is which installation it is: a bank of two databases, by how the coordinator reaches them,
// or the ring.
type Mode uint8

const (
	// InProcess: the coordinator speaks to PostgreSQL itself.
	InProcess Mode = iota
	// Sidecars: a participant process stands between them.
	Sidecars
	// Ring: PostgreSQL, MariaDB, a kv store and a service of one's own.
	Ring
)

// String is the word for the mode in the table's report.
func (m Mode) String() string { return [...]string{"in-process", "sidecars", "ring"}[m] }

// Victim is what is killed. Each is killed by SIGKILL.
type Victim uint8

const (
	// Coordinator is its process.
	Coordinator Victim = iota
	// Sidecar is one of the participant processes.
	Sidecar
	// Database is a backend of one server, of those that serve the resource. The server answers by
	// ending all others, and recovers from its own log.
	Database
	// Client is the teller.
	Client
	// Maria is the server of MariaDB.
	Maria
	// Store is the process of the kv store.
	Store
	// Own is the service of one's own.
	Own
)

// String is the word for the victim in the table's report.
func (v Victim) String() string {
	return [...]string{"coordinator", "sidecar", "database", "client", "mariadbd", "kv",
		"service"}[v]
}

// Victims are those that a mode has.
func (m Mode) Victims() []Victim {
	switch m {
	case Sidecars:
		return []Victim{Coordinator, Sidecar, Database, Client}
	case Ring:
		return []Victim{Coordinator, Database, Maria, Store, Own, Client}
	}
	return []Victim{Coordinator, Database, Client}
}

// Cell is one field of the kill table: who dies while somebody stands at which step.
type Cell struct {
	Mode   Mode
	Step   string
	Victim Victim
}

// String is the name of the cell, by which a run of one is asked for.
func (c Cell) String() string { return fmt.Sprintf("%s/%s/%s", c.Mode, c.Step, c.Victim) }

// Cells are the fields of a mode.
func Cells(m Mode, steps []string) []Cell {
	var all []Cell
	for _, s := range steps {
		for _, v := range m.Victims() {
			all = append(all, Cell{m, s, v})
		}
	}
	return all
}

// Schedule is every cell, so many times, in an order drawn from rng.
func Schedule(cells []Cell, times int, rng *rand.Rand) []Cell {
	var all []Cell
	for range times {
		all = append(all, cells...)
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Tally counts the kills of each cell.
type Tally map[Cell]int

// Kills is their sum.
func (t Tally) Kills() int {
	sum := 0
	for _, n := range t {
		sum += n
	}
	return sum
}

// Least is how often the cell was hit that was hit least.
func (t Tally) Least(cells []Cell) int {
	if len(cells) == 0 {
		return 0
	}
	least := t[cells[0]]
	for _, c := range cells {
		least = min(least, t[c])
	}
	return least
}

// Short lists the cells that were hit less often than least.
func (t Tally) Short(cells []Cell, least int) []Cell {
	var short []Cell
	for _, c := range cells {
		if t[c] < least {
			short = append(short, c)
		}
	}
	return short
}

// Render draws the table of a mode: a row for each step, a column for each victim.
func (t Tally) Render(m Mode, steps []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s", m)
	for _, v := range m.Victims() {
		fmt.Fprintf(&b, "%12s", v)
	}
	for _, s := range steps {
		fmt.Fprintf(&b, "\n%-22s", s)
		for _, v := range m.Victims() {
			fmt.Fprintf(&b, "%12d", t[Cell{m, s, v}])
		}
	}
	return b.String()
}
