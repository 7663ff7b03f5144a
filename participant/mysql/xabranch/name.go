package xabranch

import (
	"encoding/hex"
	"fmt"

	"github.com/gavel-tx/gavel/txn"
)

// FormatID is the format of our XIDs: the letters GVL1.
const FormatID = 0x47564C31

// gtridLen is the length of the part of a name that all branches of a transaction share: prefix,
// log, dot, sequence. A dot divides it from the rest, and is in neither part of an XID.
const gtridLen = len(txn.NamePrefix) + 12 + 1 + seqLen

// seqLen is the length of a sequence in a name.
const seqLen = 13

// literal is the XID of a name, in hexadecimal: nothing in it needs quoting.
func literal(name txn.Name) string {
	s := name.String()
	return fmt.Sprintf("X'%s',X'%s',%d", hex.EncodeToString([]byte(s[:gtridLen])),
		hex.EncodeToString([]byte(s[gtridLen+1:])), FormatID)
}

// ParseXID reads a row of XA RECOVER. It is false for every XID that is not exactly what we write;
// such a one is somebody else's.
func ParseXID(format int64, gtrid, bqual int, data []byte) (txn.Name, bool) {
	if format != FormatID || gtrid != gtridLen || bqual <= 0 || gtrid+bqual != len(data) {
		return txn.Name{}, false
	}
	name, err := txn.ParseName(string(data[:gtrid]) + "." + string(data[gtrid:]))
	return name, err == nil
}

// quoted is a name as a literal of SQL, and the name of its user lock.
func quoted(name txn.Name) string { return "'" + name.String() + "'" }
