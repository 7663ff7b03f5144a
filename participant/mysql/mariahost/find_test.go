package mariahost

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestFindWantsBothPrograms(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) {
		script := []byte("#!/bin/sh\necho mariadbd Ver 10.11\n")
		if err := os.WriteFile(filepath.Join(dir, name), script, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("mariadbd", 0o755)
	write("mariadb-install-db", 0o644)
	if _, err := find(dir); !errors.Is(err, ErrNoMariaDB) {
		t.Errorf("found %v with one program", err)
	}
	if err := os.Chmod(filepath.Join(dir, "mariadb-install-db"), 0o755); err != nil {
		t.Fatal(err)
	}
	inst, err := find(dir)
	if err != nil || inst.Version != "mariadbd Ver 10.11" ||
		inst.Server != filepath.Join(dir, "mariadbd") {
		t.Errorf("found %+v, %v", inst, err)
	}
}
