package crash

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/txn"
)

// Place is one of the four places of the ring, each with a resource manager of another kind. Each
// has the accounts that a bank's database has, and a ledger. Money goes around in the ring: what is
// taken at one place is given at the others.
type Place uint8

// The places, in the order in which every transfer comes to them.
const (
	PostgreSQL Place = iota
	MariaDB
	KV
	Service

	// Places is how many there are.
	Places = 4
)

// String is also the name of the resource at the coordinator.
func (p Place) String() string {
	return [...]string{"postgres", "mariadb", "kv", "service"}[p]
}

// AllPlaces are the names of the resources, in their order.
func AllPlaces() []string {
	return []string{PostgreSQL.String(), MariaDB.String(), KV.String(), Service.String()}
}

// Named says that a branch at the place has its name before its work, so that every transaction
// with one is the coordinator's to decide.
func (p Place) Named() bool { return p != PostgreSQL }

// Role is what a transfer does at a place.
type Role uint8

// The roles.
const (
	// Away: nothing.
	Away Role = iota
	// Reads: it looks at an account.
	Reads
	// Moves: it changes balances, and leaves a row.
	Moves
)

// Share is a transfer's part at one place. Amount is what the balances there change by in all,
// which is what the row says.
type Share struct {
	Role   Role
	Amount int64
}

// Traffic is a kind of transfer in the ring.
type Traffic uint8

// The kinds.
const (
	// FourMove: one place pays, and the three others receive.
	FourMove Traffic = iota
	// OneAlone: one place, where money goes from one account to another.
	OneAlone
	// OneMoves: the same, and the transfer reads at the three others.
	OneMoves
	// TwoMove: one place pays and another receives; to the others it does not come.
	TwoMove
	// OneRefuses: as FourMove, but of more than any account has. The place that is to pay says No.
	OneRefuses
	// ThreeMove: as FourMove, and at the fourth place it reads.
	ThreeMove

	// Traffics is how many kinds there are.
	Traffics = 6
)

func (k Traffic) String() string {
	return [...]string{"four move", "one alone", "one moves, three read", "two move",
		"one refuses", "three move, one reads"}[k]
}

// Course is what the transfer with a number is to do, whoever asks: the teller that makes it and
// the test that judges it.
type Course struct {
	Traffic Traffic
	// Payer is the place that pays, or the only one at which money is moved.
	Payer  Place
	Shares [Places]Share
}

// Refused says that it asks for more than there is.
func (c Course) Refused() bool { return c.Traffic == OneRefuses }

// Moves says whether it changes something at a place.
func (c Course) Moves(p Place) bool { return c.Shares[p].Role == Moves }

// Plain says that a single database does all of it, and decides by itself.
func (c Course) Plain() bool {
	movers := 0
	for p, s := range c.Shares {
		if s.Role != Away && Place(p).Named() {
			return false
		}
		if s.Role == Moves {
			movers++
		}
	}
	return movers == 1
}

const (
	// tooMuch is an amount that no account has, times what it is multiplied with.
	tooMuch = 1_000_000
	// rounds is where the numbers of rounds begin: those of two rounds take other turns.
	rounds = 1_000_000
)

// CourseOf is the course of the transfer n: five of ten go to all four places and the others are of
// one kind each, at places that change from ten to ten.
func CourseOf(n int64) Course {
	turn := n/10 + n/rounds
	c := Course{Traffic: FourMove, Payer: Place(turn % Places)}
	movers := []Place{PostgreSQL, MariaDB, KV, Service}
	others := Away
	switch n % 10 {
	case 5:
		c.Traffic, movers = OneAlone, []Place{c.Payer}
	case 6:
		c.Traffic, movers, others = OneMoves, []Place{c.Payer}, Reads
	case 7:
		c.Traffic, movers = TwoMove, []Place{c.Payer, (c.Payer + Place(1+turn/Places%3)) % Places}
	case 8:
		c.Traffic = OneRefuses
	case 9:
		reader := (c.Payer + 1) % Places
		c.Traffic, others = ThreeMove, Reads
		movers = slices.DeleteFunc(movers, func(p Place) bool { return p == reader })
	}
	amount := 1 + n%7
	if c.Refused() {
		amount *= tooMuch
	}
	for p := range c.Shares {
		c.Shares[p].Role = others
	}
	for _, p := range movers {
		c.Shares[p] = Share{Moves, amount}
	}
	c.Shares[c.Payer].Amount -= int64(len(movers)) * amount
	return c
}

// Leg is a change of one account.
type Leg struct {
	Account int   `json:"account"`
	Amount  int64 `json:"amount"`
}

// Legs are the changes of a share, at two different accounts. One whose amounts cancel out has two,
// in the order of the accounts, so that no two transfers wait for each other in a circle.
func (s Share) Legs(a, b int) []Leg {
	if s.Amount != 0 {
		return []Leg{{a, s.Amount}}
	}
	return []Leg{{min(a, b), -1}, {max(a, b), 1}}
}

// The SQL of the ring. MariaDB refuses an overdrawn account at once, and PostgreSQL when it is
// asked to prepare, or to commit.
const (
	MariaBalanceSQL = `UPDATE account SET balance = balance + ? WHERE id = ?`
	MariaLedgerSQL  = `INSERT INTO ledger (n, amount) VALUES (?, ?)`
	MariaReadSQL    = `SELECT balance FROM account WHERE id = ?`
	ReadSQL         = `SELECT balance FROM account WHERE id = $1`
)

// RingSchemaSQL makes and fills the tables of the ring at PostgreSQL, where those of a bank are.
func RingSchemaSQL() string {
	return SchemaSQL() + `;
		CREATE FUNCTION covered() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF (SELECT balance FROM account WHERE id = NEW.id) < 0 THEN
				RAISE check_violation USING MESSAGE = 'the account is overdrawn';
			END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER covered AFTER UPDATE ON account
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION covered()`
}

// MariaSchema makes and fills the tables of the ring at MariaDB, statement by statement, in a
// database that must not exist.
func MariaSchema(database string) []string {
	return []string{
		"CREATE DATABASE " + database,
		"CREATE TABLE " + database + ".account (id INT PRIMARY KEY, balance BIGINT NOT NULL, " +
			"CONSTRAINT covered CHECK (balance >= 0)) ENGINE = InnoDB",
		"CREATE TABLE " + database + ".ledger (n BIGINT NOT NULL, amount BIGINT NOT NULL, " +
			"KEY (n)) ENGINE = InnoDB",
		fmt.Sprintf("INSERT INTO %[1]s.account SELECT seq, %[2]d FROM %[1]s.seq_0_to_%[3]d",
			database, Balance, Accounts-1),
	}
}

// KVBalance is the key of an account in the kv store, which keeps its difference to Balance.
func KVBalance(account int) string { return fmt.Sprintf("account/%d", account) }

// KVRow is the key of a row's amount.
func KVRow(n int64) string { return fmt.Sprintf("ledger/%d", n) }

// KVTimes is the key of how often a row was written: one that comes twice would not be seen.
func KVTimes(n int64) string { return fmt.Sprintf("times/%d", n) }

// Job is what the service of the ring is asked to do for a branch, as JSON, by POST to /work. One
// without legs reads.
type Job struct {
	Branch string `json:"branch"`
	// Call numbers the calls of a branch, from 1.
	Call   uint64 `json:"call"`
	N      int64  `json:"n"`
	Amount int64  `json:"amount"`
	Legs   []Leg  `json:"legs,omitempty"`
}

// Name is the branch.
func (j Job) Name() (txn.Name, error) { return txn.ParseName(j.Branch) }

// Statement is what the service says of itself, as JSON, by GET of /statement?from=N: the rows from
// a number on, the sum of all balances, and what it keeps for branches that are not over.
type Statement struct {
	Rows []Row    `json:"rows"`
	Sum  int64    `json:"sum"`
	Kept []string `json:"kept"`
}

// Row is one row of a ledger.
type Row struct {
	N      int64 `json:"n"`
	Amount int64 `json:"amount"`
}

// The environment of a teller of the ring, beside EnvCoordinator.
const (
	EnvPostgres = "TELLER_POSTGRES"
	EnvMariaDB  = "TELLER_MARIADB"
	EnvKV       = "TELLER_KV"
	EnvService  = "TELLER_SERVICE"
)
