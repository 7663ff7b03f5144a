package wire

import (
	"math"
	"reflect"
	"testing"

	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// TestRowsRoundTrip: every kind of value is read as it was written, and no other is written.
func TestRowsRoundTrip(t *testing.T) {
	rows := [][]any{{nil, true, int64(math.MinInt64), math.Inf(1), "ö", []byte{0, 255}}, {}}
	if got := DecodeRows(EncodeRows(rows)); !reflect.DeepEqual(got, rows) {
		t.Errorf("%#v", got)
	}
	if got := DecodeValue(&gavelv1.SqlValue{}); got != nil {
		t.Errorf("a value without a kind is %#v", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("an int was written")
		}
	}()
	EncodeValue(1)
}

// TestStatementRoundTrip, and its limits on the way in.
func TestStatementRoundTrip(t *testing.T) {
	n := int64(3)
	s := session.Statement{SQL: "select $1", Args: []any{"a", nil}, Expect: &n}
	m := EncodeStatement(s)
	if got, err := DecodeStatement(m, m.ExpectRows); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%+v, %v", got, err)
	}
	m.Sql = string(make([]byte, session.MaxSQLLen+1))
	if _, err := DecodeStatement(m, nil); txn.ReasonOf(err) != txn.ReasonInvalid {
		t.Errorf("%v", err)
	}
}

// TestIsolationRoundTrip: a level that is not known must not become a weaker one.
func TestIsolationRoundTrip(t *testing.T) {
	for i := session.DefaultIsolation; i <= session.Serializable; i++ {
		if got, err := DecodeIsolation(EncodeIsolation(i)); got != i || err != nil {
			t.Errorf("%d is read as %d, %v", i, got, err)
		}
	}
	if _, err := DecodeIsolation(77); txn.ReasonOf(err) != txn.ReasonInvalid {
		t.Errorf("%v", err)
	}
}
