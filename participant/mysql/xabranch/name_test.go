package xabranch_test

import (
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestPureXIDIsReadBack(t *testing.T) {
	for _, name := range []txn.Name{
		{Log: 1, Seq: 1, Branch: 1},
		{Log: txn.MaxLogID, Seq: txn.MaxSeq, Branch: 65535},
		{Log: 0x1234, Seq: 77, Branch: 3, Decider: 12},
	} {
		s := name.String()
		at := len("gavel1.") + 12 + 1 + 13
		gtrid, bqual := s[:at], s[at+1:]
		if len(gtrid) > 64 || len(bqual) > 64 {
			t.Errorf("%s: %d and %d bytes, and XA allows 64", s, len(gtrid), len(bqual))
		}
		got, ok := xabranch.ParseXID(0x47564C31, len(gtrid), len(bqual), []byte(gtrid+bqual))
		if !ok || got != name {
			t.Errorf("%s is read as %s, %v", name, got, ok)
		}
		if lit := xabranch.Literal(name); strings.Trim(lit, "X'0123456789abcdef,") != "" {
			t.Errorf("literal %s", lit)
		}
	}
}

func TestPureStrangersAreNotOurs(t *testing.T) {
	const gtrid, bqual = "gavel1.000000000001.0000000000001", "1"
	for _, c := range []struct {
		format       int64
		gtrid, bqual int
		data         string
	}{
		{1, 33, 1, gtrid + bqual},
		{xabranch.FormatID, 32, 2, gtrid + bqual},
		{xabranch.FormatID, 33, 0, gtrid},
		{xabranch.FormatID, 33, 2, gtrid + bqual},
		{xabranch.FormatID, 33, -1, gtrid + bqual},
		{xabranch.FormatID, 33, 2, gtrid + "01"},
		{xabranch.FormatID, 33, 1, strings.ToUpper(gtrid) + bqual},
		{xabranch.FormatID, 0, 0, ""},
	} {
		if name, ok := xabranch.ParseXID(c.format, c.gtrid, c.bqual, []byte(c.data)); ok {
			t.Errorf("%+v is read as %s", c, name)
		}
	}
	_, ok := xabranch.ParseXID(xabranch.FormatID, 33, 1, []byte(gtrid+bqual))
	if !ok {
		t.Error("the one that is ours is not read")
	}
}
