package pgsession

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/gavel-tx/gavel/participant/session"
)

// The formats of values in the protocol.
const (
	formatText   = 0
	formatBinary = 1
)

// encode writes parameters. Their types are left to the server, which knows the statement.
func encode(args []any) (values [][]byte, formats []int16, err error) {
	values, formats = make([][]byte, len(args)), make([]int16, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case nil:
		case bool:
			values[i] = strconv.AppendBool(nil, v)
		case int64:
			values[i] = strconv.AppendInt(nil, v, 10)
		case float64:
			values[i] = appendFloat(v)
		case string:
			values[i] = []byte(v)
		case []byte:
			// The bytes as they are, which is a bytea's binary form.
			values[i], formats[i] = append([]byte{}, v...), formatBinary
		default:
			return nil, nil, &session.Error{
				Reason: fmt.Sprintf("was not run: parameter %d is a %T", i+1, a)}
		}
	}
	return values, formats, nil
}

func appendFloat(v float64) []byte {
	if math.IsInf(v, 0) {
		return []byte(map[bool]string{true: "Infinity", false: "-Infinity"}[v > 0])
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 64)
}

// decode reads a row, which came as text. It returns also the size of its values.
func decode(fields []pgconn.FieldDescription, values [][]byte) (row []any, size int, err error) {
	row = make([]any, len(values))
	for i, v := range values {
		size += len(v)
		if v == nil {
			continue
		}
		if row[i], err = value(fields[i].DataTypeOID, string(v)); err != nil {
			return nil, 0, &session.Error{Err: err, Reason: fmt.Sprintf(
				"returned a value in column %q that cannot be read: %v", fields[i].Name, err)}
		}
	}
	return row, size, nil
}

func value(oid uint32, text string) (any, error) {
	switch oid {
	case pgtype.BoolOID:
		return text == "t", nil
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		return strconv.ParseInt(text, 10, 64)
	case pgtype.Float4OID, pgtype.Float8OID:
		return strconv.ParseFloat(text, 64)
	case pgtype.ByteaOID:
		digits, ok := strings.CutPrefix(text, `\x`)
		if !ok {
			return nil, errors.New("bytea_output must be left at hex")
		}
		return hex.DecodeString(digits)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("it is not UTF-8; leave client_encoding alone, or select a bytea")
	}
	return text, nil
}
