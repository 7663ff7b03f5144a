package pgbranch

import "testing"

func TestTextOfSeveralStatements(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT 1": false, "SELECT 1;": false, "SELECT 1; \n": false,
		"UPDATE a SET b = 1; SELECT 1": true, "SELECT ';'": true,
	} {
		if got := Several(sql); got != want {
			t.Errorf("Several(%q) = %v", sql, got)
		}
	}
}

func TestControlsBehindComments(t *testing.T) {
	for sql, want := range map[string]string{
		"--\rCOMMIT AND CHAIN": "COMMIT", "-- a\r\n--b\n \rend": "END",
		"--\r/* /* */ */;PREPARE--\rTRANSACTION 'x'": "PREPARE",
		"-- COMMIT": "", "--\rROLLBACK--\rTO a": "", "--\rSELECT 1 --\nCOMMIT": "",
	} {
		if got := Controls(sql); got != want {
			t.Errorf("Controls(%q) = %q, want %q", sql, got, want)
		}
	}
}
