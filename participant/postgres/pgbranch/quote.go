package pgbranch

import (
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
)

// nameLiteral is a prepared name as an SQL literal. PREPARE TRANSACTION takes no bind parameter.
// The name's grammar needs no quoting; that it holds is asserted here, at the last place before the
// server.
func nameLiteral(name txn.Name) string {
	text := name.String()
	if bad := strings.Trim(text, "0123456789abcdefghijklmnopqrstuvwxyz."); bad != "" ||
		len(text) > txn.MaxNameLen {
		panic(fmt.Sprintf("pgbranch: %q is not a prepared name", text))
	}
	return "'" + text + "'"
}

// QuoteIdentifier quotes the name of a role for SQL. A NUL cannot be sent and PostgreSQL cannot
// have one in a name.
func QuoteIdentifier(name string) string {
	return `"` + strings.ReplaceAll(strings.ReplaceAll(name, "\x00", ""), `"`, `""`) + `"`
}
