package pgxtx

import (
	"errors"
	"testing"
)

func TestTextThatEndsATransactionIsRefused(t *testing.T) {
	for _, sql := range []string{
		"COMMIT", "commit;", " \n\tCommit work", "END", "BEGIN", "START TRANSACTION", "ABORT",
		"ROLLBACK", "rollback work", "ROLLBACK TRANSACTION;", "PREPARE TRANSACTION 'x'",
		"-- the end\nCOMMIT", "/* a /* nested */ comment */ COMMIT", "; ;COMMIT",
		"COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "ROLLBACK PREPARED 'x'", "COMMIT PREPARED 'x'",
	} {
		if err := checkText(sql); !errors.Is(err, ErrControl) {
			t.Errorf("%q: %v", sql, err)
		}
	}
}

func TestTextThatEndsNothingIsWelcome(t *testing.T) {
	for _, sql := range []string{
		"", ";", "SELECT 1", "UPDATE acct SET bal = 0", "SAVEPOINT a", "RELEASE a",
		"ROLLBACK TO a", "rollback to savepoint a", "ROLLBACK WORK TO a",
		"ROLLBACK TRANSACTION TO SAVEPOINT a", "PREPARE stmt AS SELECT 1",
		"-- COMMIT\nSELECT 1", "/* COMMIT */ SELECT 1", "/* not closed COMMIT", "-- COMMIT",
		"commit_order", "endless", "WITH x AS (SELECT 1) SELECT * FROM x",
		"-- name: Debit :exec\nUPDATE acct SET bal = bal - $1",
	} {
		if err := checkText(sql); err != nil {
			t.Errorf("%q: %v", sql, err)
		}
	}
}
