package pgbranch

import (
	"strings"
	"unicode"
)

// Controls is the first word of SQL whose first words end a transaction, or begin another, or else
// empty. It is a help and not a safeguard. What slips through, as the second statement of a text,
// shows in the session's state, unless another transaction has begun at once: COMMIT AND CHAIN
// shows only in its command tag.
func Controls(sql string) string {
	first, rest := FirstWord(sql)
	second, rest := FirstWord(rest)
	switch first {
	case "BEGIN", "START", "COMMIT", "END", "ABORT":
		return first
	case "PREPARE":
		if second == "TRANSACTION" {
			return first
		}
	case "ROLLBACK":
		if second == "WORK" || second == "TRANSACTION" {
			second, _ = FirstWord(rest)
		}
		if second != "TO" {
			return first
		}
	}
	return ""
}

// FirstWord is the first word of SQL, in capitals, behind blanks, comments and empty statements.
func FirstWord(sql string) (word, rest string) {
	for {
		sql = strings.TrimLeftFunc(sql, func(r rune) bool { return unicode.IsSpace(r) || r == ';' })
		switch {
		case strings.HasPrefix(sql, "--"):
			sql = afterLine(sql)
		case strings.HasPrefix(sql, "/*"):
			sql = afterComment(sql)
		default:
			end := strings.IndexFunc(sql, func(r rune) bool {
				return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
			})
			if end < 0 {
				end = len(sql)
			}
			return strings.ToUpper(sql[:end]), sql[end:]
		}
	}
}

// afterLine skips a comment up to the end of its line. For PostgreSQL that is a CR as well as a LF.
func afterLine(sql string) string {
	end := strings.IndexAny(sql, "\r\n")
	if end < 0 {
		return ""
	}
	return sql[end:]
}

// afterComment skips a comment. In PostgreSQL they nest.
func afterComment(sql string) string {
	depth := 0
	for i := 0; i+1 < len(sql); i++ {
		switch sql[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return sql[i+1:]
			}
		}
	}
	return ""
}

// Several says whether SQL may hold more than one statement, so that the one command tag that
// comes back does not speak for all of them.
func Several(sql string) bool {
	return strings.Contains(strings.TrimRight(sql, "; \t\r\n"), ";")
}
