// Package build tells which build of gavel this is.
package build

import (
	"runtime"
	"runtime/debug"

	"github.com/gavel-tx/gavel/txlog"
)

// API is the version of the wire protocol that this build speaks.
const API = "gavel.v1"

// Info describes the build. Its JSON is part of the contract of `gavel version`.
type Info struct {
	Version string `json:"version"`
	// Revision and Time are those of the commit, if the build knew it; Modified says that the tree
	// had changes on top.
	Revision  string `json:"revision,omitempty"`
	Time      string `json:"time,omitempty"`
	Modified  bool   `json:"modified,omitempty"`
	Go        string `json:"go"`
	Platform  string `json:"platform"`
	LogFormat int    `json:"log_format"`
	API       string `json:"api"`
}

// Read is the Info of this process.
func Read() Info {
	info := Info{Version: "(devel)", Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, LogFormat: txlog.Version, API: API}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	if b.Main.Version != "" {
		info.Version = b.Main.Version
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Revision = s.Value
		case "vcs.time":
			info.Time = s.Value
		case "vcs.modified":
			info.Modified = s.Value == "true"
		}
	}
	return info
}
