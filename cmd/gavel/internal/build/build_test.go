package build_test

import (
	"encoding/json"
	"testing"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/txlog"
)

// TestRead: what a person who reports a fault is asked for is there.
func TestRead(t *testing.T) {
	info := build.Read()
	if info.Version == "" || info.Go == "" || info.Platform == "" || info.API == "" ||
		info.LogFormat != txlog.Version {
		t.Errorf("%+v", info)
	}
	body, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(body, &back); err != nil || back["log_format"] != 1.0 {
		t.Errorf("%v, %v", back, err)
	}
}
