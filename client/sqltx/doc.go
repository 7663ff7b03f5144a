// Package sqltx lets the database/sql pools of an application take part in its transactions: a [DB]
// is a *sql.DB and the name under which the coordinator knows its database.
//
//	accounts := sqltx.New("bank_a", db, sqltx.PostgreSQL)    // db of the driver "pgx"
//	stock := sqltx.New("stock", other, sqltx.MariaDB)        // of go-sql-driver's "mysql"
//
//	err := c.InTx(ctx, func(ctx context.Context) error {     // c is a client.Client
//		_, err := accounts.ExecContext(ctx, `UPDATE acct SET bal = bal - $1`, 30)
//		if err != nil {
//			return err
//		}
//		_, err = stock.ExecContext(ctx, `UPDATE goods SET n = n - ?`, 30)
//		return err
//	})
//
// A DB has ExecContext, QueryContext, QueryRowContext and PrepareContext, which is what sqlc calls
// DBTX: generated code runs unchanged, by New(accounts). The transaction is taken from the context
// of each call. Its branch is one *sql.Conn, never the pool, opened by the first call and given
// back when the transaction has ended, prepared or not. Without a transaction a call returns
// client.ErrNoTransaction; it never commits by itself, unless [AllowAutocommit] says so.
//
// # What happens when
//
//	an error is ignored  the transaction rolls back all the same, in every branch; but for what
//	                     goes wrong on this side behind an answer, such as a Scan of NULL into
//	                     an int, which nobody sees but the application
//	panic                every branch is rolled back, and the panic goes on
//	the context ends     the running statement is cancelled, its connection closed, and all
//	                     branches are rolled back
//	rows are open        the connection is busy: another statement is not sent, and fails with
//	                     ErrBusy, and so does the transaction. Rows of which something is left to
//	                     read when the function returns are closed, and the transaction rolls back
//	two goroutines at    the second statement fails with ErrBusy in the same way. Different
//	one database         databases may be used at the same time
//	COMMIT, ROLLBACK,    refused with ErrControl, before it is sent: the end of a transaction
//	PREPARE … as SQL     belongs to InTx. SAVEPOINT, ROLLBACK TO and RELEASE are welcome
//	PrepareContext       refused with ErrPrepare: what runs by way of a *sql.Stmt could not be
//	                     watched. The driver prepares what is sent often by itself
//
// # MariaDB
//
// What MariaDB demands is in participant/mysql/xabranch; the server is set up by its Schema. What
// is different from PostgreSQL:
//
//	the coordinator      decides also if the branch is the only one: MariaDB wants the name of
//	                     a branch before its first statement, so that the first call waits for it
//	a failed statement   cannot be undone: MariaDB would let it pass, so that the branch
//	                     remembers, also after a ROLLBACK TO
//	a branch that reads  is prepared like any other, unless client.ReadOnly was asked for: then
//	                     it leaves nothing behind
//	CREATE, LOCK TABLES  and all else that commits by itself is refused by the server. Temporary
//	                     tables are welcome, and end with the branch's connection
//	USE                  of another database: the branch is not prepared
//	the connection       is closed with every branch that is prepared: until then nobody else can
//	                     commit it. The pool makes a new one
//	the context ends     the server may go on with the running statement, and keeps its locks
//	                     until that ends; max_statement_time bounds it
//
// MySQL is not MariaDB, and was never tested: see [ExperimentalMySQL].
//
// With pgx pools package pgxtx does the same in fewer round trips, and has more: queued statements,
// batches, COPY, savepoints as a pgx.Tx, and a branch that decides.
package sqltx
