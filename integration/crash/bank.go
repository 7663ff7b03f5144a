package crash

import "fmt"

// What tellers and the test know of the bank. Both databases have the same tables. A transfer takes
// an amount from an account at the first and gives it to one at the second, and writes a row with
// its number beside each change: the row commits with the change or not at all. Transfers that
// count add the same amount to the one row of a counter at both databases, and leave a mark with
// the sum.
const (
	// Accounts is how many each database has, numbered from zero.
	Accounts = 64
	// Balance is what each account begins with.
	Balance = 1000

	// ResourceA and ResourceB are the names of the databases at the coordinator.
	ResourceA = "bank_a"
	ResourceB = "bank_b"

	// MoveSQL changes a balance and writes the row. Its parameters are account, amount and number.
	MoveSQL = `
		WITH moved AS (UPDATE account SET balance = balance + $2 WHERE id = $1)
		INSERT INTO ledger (n, amount) VALUES ($3, $2)`

	// BalanceSQL and LedgerSQL are MoveSQL in two statements, which may be queued. The parameters
	// are account and amount, and number and amount.
	BalanceSQL = `UPDATE account SET balance = balance + $2 WHERE id = $1`
	LedgerSQL  = `INSERT INTO ledger (n, amount) VALUES ($1, $2)`

	// CountSQL adds to the counter and leaves a mark. Its parameters are number and amount.
	CountSQL = `
		WITH counted AS (UPDATE counter SET value = value + $2 RETURNING value)
		INSERT INTO trail (n, value) SELECT $1, value FROM counted`
)

// The environment of a teller.
const (
	EnvCoordinator = "TELLER_COORDINATOR"
	EnvBankA       = "TELLER_BANK_A"
	EnvBankB       = "TELLER_BANK_B"
	// EnvStorm, if not empty, has every other transfer add to the counters, and some callers leave
	// before they have their answer.
	EnvStorm = "TELLER_STORM"
)

// SchemaSQL makes and fills the tables of one database.
func SchemaSQL() string {
	return fmt.Sprintf(`
		CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
		CREATE TABLE ledger (n bigint NOT NULL, amount bigint NOT NULL);
		CREATE INDEX ON ledger (n);
		CREATE TABLE counter (value bigint NOT NULL);
		CREATE TABLE trail (n bigint NOT NULL, value bigint NOT NULL);
		INSERT INTO counter VALUES (0);
		INSERT INTO account SELECT i, %d FROM generate_series(0, %d) AS i`, Balance, Accounts-1)
}
