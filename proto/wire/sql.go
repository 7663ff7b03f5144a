package wire

import (
	"fmt"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// MaxSQLMessage bounds one request that has statements in it, in bytes.
const MaxSQLMessage = 1 << 20

// MaxStatements bounds the statements of one ExecuteTransaction.
const MaxStatements = 256

// The limits of all rows that one ExecuteTransaction returns.
const (
	MaxResultRows  = 1000
	MaxResultBytes = 1 << 20
)

func isolations() table[session.Isolation, gavelv1.Isolation] {
	return table[session.Isolation, gavelv1.Isolation]{
		{session.DefaultIsolation, gavelv1.Isolation_ISOLATION_UNSPECIFIED},
		{session.ReadCommitted, gavelv1.Isolation_ISOLATION_READ_COMMITTED},
		{session.RepeatableRead, gavelv1.Isolation_ISOLATION_REPEATABLE_READ},
		{session.Serializable, gavelv1.Isolation_ISOLATION_SERIALIZABLE},
	}
}

// EncodeIsolation writes an isolation level.
func EncodeIsolation(i session.Isolation) gavelv1.Isolation {
	return isolations().toWire(i, gavelv1.Isolation_ISOLATION_UNSPECIFIED)
}

// DecodeIsolation reads an isolation level. One that it does not know is refused: a weaker one must
// not stand for it.
func DecodeIsolation(i gavelv1.Isolation) (session.Isolation, error) {
	if _, known := gavelv1.Isolation_name[int32(i)]; !known {
		return 0, txn.Refusef(txn.ReasonInvalid, "isolation", "%d is not an isolation level", i)
	}
	return isolations().fromWire(i, session.DefaultIsolation), nil
}

// EncodeValue writes a value of a statement: nil, bool, int64, float64, string or []byte. It panics
// for anything else, which no adapter returns.
func EncodeValue(v any) *gavelv1.SqlValue {
	switch v := v.(type) {
	case nil:
		return &gavelv1.SqlValue{Kind: &gavelv1.SqlValue_Null{Null: structpb.NullValue_NULL_VALUE}}
	case bool:
		return &gavelv1.SqlValue{Kind: &gavelv1.SqlValue_Bool{Bool: v}}
	case int64:
		return &gavelv1.SqlValue{Kind: &gavelv1.SqlValue_Int64{Int64: v}}
	case float64:
		return &gavelv1.SqlValue{Kind: &gavelv1.SqlValue_Double{Double: v}}
	case string:
		return &gavelv1.SqlValue{Kind: &gavelv1.SqlValue_Text{Text: v}}
	case []byte:
		return &gavelv1.SqlValue{Kind: &gavelv1.SqlValue_Bytes{Bytes: v}}
	}
	panic(fmt.Sprintf("wire: a value of type %T", v))
}

// DecodeValue reads a value. One without a kind is nil.
func DecodeValue(v *gavelv1.SqlValue) any {
	switch k := v.GetKind().(type) {
	case *gavelv1.SqlValue_Bool:
		return k.Bool
	case *gavelv1.SqlValue_Int64:
		return k.Int64
	case *gavelv1.SqlValue_Double:
		return k.Double
	case *gavelv1.SqlValue_Text:
		return k.Text
	case *gavelv1.SqlValue_Bytes:
		return k.Bytes
	}
	return nil
}

// EncodeRows writes rows.
func EncodeRows(rows [][]any) []*gavelv1.SqlRow {
	out := make([]*gavelv1.SqlRow, len(rows))
	for i, row := range rows {
		out[i] = &gavelv1.SqlRow{Values: make([]*gavelv1.SqlValue, len(row))}
		for j, v := range row {
			out[i].Values[j] = EncodeValue(v)
		}
	}
	return out
}

// DecodeRows reads rows.
func DecodeRows(rows []*gavelv1.SqlRow) [][]any {
	out := make([][]any, len(rows))
	for i, row := range rows {
		out[i] = decodeValues(row.GetValues())
	}
	return out
}

func decodeValues(values []*gavelv1.SqlValue) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = DecodeValue(v)
	}
	return out
}

// EncodeStatement writes a statement.
func EncodeStatement(s session.Statement) *gavelv1.ExecuteStatement {
	return &gavelv1.ExecuteStatement{Sql: s.SQL, ExpectRows: s.Expect,
		Args: EncodeRows([][]any{s.Args})[0].GetValues()}
}

// SQL is what a statement is, in every message that has one.
type SQL interface {
	GetSql() string
	GetArgs() []*gavelv1.SqlValue
}

// DecodeStatement reads a statement, of which expect is the expected number of rows, and holds it
// to its limits.
func DecodeStatement(s SQL, expect *int64) (session.Statement, error) {
	out := session.Statement{SQL: s.GetSql(), Args: decodeValues(s.GetArgs()), Expect: expect}
	return out, out.Validate()
}
