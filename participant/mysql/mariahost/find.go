package mariahost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoMariaDB says that this host has no MariaDB server programs.
var ErrNoMariaDB = errors.New("mariahost: no MariaDB server found on this host: install " +
	"mariadb-server-core and mariadb-client-core, or put mariadbd on the PATH")

// Installation is a set of MariaDB server programs.
type Installation struct {
	// Server and Install are mariadbd and mariadb-install-db.
	Server, Install string
	// Version is the text of the server.
	Version string
}

// Find looks for the server programs on the PATH, and where Debian keeps them.
func Find() (Installation, error) { return find(os.Getenv("PATH") + ":/usr/sbin:/usr/bin") }

func find(path string) (Installation, error) {
	var inst Installation
	for _, dir := range filepath.SplitList(path) {
		for name, into := range map[string]*string{
			"mariadbd": &inst.Server, "mariadb-install-db": &inst.Install,
		} {
			file := filepath.Join(dir, name)
			info, err := os.Stat(file)
			if *into == "" && err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				*into = file
			}
		}
	}
	if inst.Server == "" || inst.Install == "" {
		return Installation{}, ErrNoMariaDB
	}
	out, err := exec.Command(inst.Server, "--version").Output()
	if err != nil {
		return Installation{}, fmt.Errorf("mariahost: %s --version: %w", inst.Server, err)
	}
	inst.Version = strings.TrimSpace(string(out))
	return inst, nil
}
