package xabranch

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/txn"
)

// FinishResult is what became of one XA COMMIT or XA ROLLBACK.
type FinishResult uint8

const (
	// FinishUnknown: the connection was lost, or the answer proves nothing. Ask again.
	FinishUnknown FinishResult = iota
	// FinishDone: done now, by this statement, and its row bears it out.
	FinishDone
	// FinishMissing: unknown XID (1397). That is no success: see [Standing].
	FinishMissing
	// FinishHidden: the server said OK and did nothing. The branch is prepared, keeps its locks,
	// and is listed again when the server is restarted.
	FinishHidden
	// FinishRefused: some other error; nothing was done.
	FinishRefused
)

// String is the word for the result in messages.
func (r FinishResult) String() string {
	return [...]string{"unknown", "done", "missing", "hidden", "refused"}[r]
}

// ErrHidden is in the answer of a Finish to which the server said OK although it did nothing.
var ErrHidden = errors.New("xabranch: the server has lost sight of the branch, which keeps its " +
	"locks until the server is restarted, and will be finished then")

// ErrUnsynced is in the answer of a Finish that committed at a server that does not sync: a power
// failure could take the commit back. Nobody may be told of it before the server syncs again.
var ErrUnsynced = errors.New("xabranch: innodb_flush_log_at_trx_commit is not 1, so that what " +
	"commits is not durable: SET GLOBAL innodb_flush_log_at_trx_commit = 1")

// Finished is the answer for one branch.
type Finished struct {
	Result FinishResult
	// Err is what the server or the connection said where Result is not FinishDone.
	Err error
}

// Finish commits or rolls back prepared branches, one after the other, on a connection outside of a
// transaction. Each must have a row, and should have been [StateFree] for as long as [Settle]: one
// whose session is just ending may become FinishHidden. The answer has one element per name.
//
// A commit is durable when Finish returns. A rollback is not, because InnoDB does not sync it: a
// crash brings the branch back, unless a durable write such as [Vouch] came after it.
//
// The end of ctx closes the connection and leaves what was not answered FinishUnknown.
func Finish(
	ctx context.Context, conn *sql.Conn, commit bool, names []txn.Name,
) []Finished {
	verb := "XA ROLLBACK "
	if commit {
		verb = "XA COMMIT "
	}
	done := make([]Finished, len(names))
	var claimed []txn.Name
	for i, name := range names {
		err := exec(ctx, conn, verb+literal(name))
		done[i] = Finished{Result: finishResult(err), Err: err}
		if err == nil {
			claimed = append(claimed, name)
		}
		if Broken(err) {
			for j := i + 1; j < len(names); j++ {
				done[j].Err = err
			}
			break
		}
	}
	rows, err := Rows(ctx, conn, claimed, !commit)
	for i, name := range names {
		if done[i].Result == FinishDone {
			row, there := rows[name]
			done[i] = borneOut(commit, row, there, err)
		}
	}
	return done
}

func finishResult(err error) FinishResult {
	switch Number(err) {
	case 0:
		if err == nil {
			return FinishDone
		}
		return FinishUnknown
	case numNoTA:
		return FinishMissing
	case numInvalid, numWrongState, numOutside, numOption, numLockTimeout:
		return FinishRefused
	}
	return FinishUnknown
}

// borneOut holds the server's OK against the branch's row: that of a commit is committed, and that
// of a rollback is gone. The commit was synced before the answer, if the server syncs at all.
func borneOut(commit bool, row Row, there bool, err error) Finished {
	switch {
	case err != nil:
		return Finished{Err: fmt.Errorf("xabranch: look for the row: %w", err)}
	case there != commit:
		return Finished{Result: FinishHidden, Err: ErrHidden}
	case commit && !row.synced:
		return Finished{Err: ErrUnsynced}
	}
	return Finished{Result: FinishDone}
}
