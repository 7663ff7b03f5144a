package pghost

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fakeBin makes a directory of programs that only know their version.
func fakeBin(t *testing.T, version string, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range programs {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, p), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindPrefersThePathThenTheNewest(t *testing.T) {
	programs := []string{"postgres", "initdb", "pg_controldata"}
	v14, v16 := fakeBin(t, "14.2", programs...), fakeBin(t, "16.1 (Debian)", programs...)
	old := fakeBin(t, "13.9", programs...)
	partial := fakeBin(t, "17.0", "postgres")
	linked := t.TempDir()
	err := os.Symlink(filepath.Join(v14, "postgres"), filepath.Join(linked, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path  string
		globs []string
		want  string
	}{
		"newest":            {"", []string{v14, v16, old, partial}, v16},
		"path wins":         {v14, []string{v16}, v14},
		"path of links":     {linked, []string{v16}, v14},
		"path is too old":   {old, []string{v16}, v16},
		"path lacks initdb": {partial, []string{v14}, v14},
	} {
		inst, err := find(c.path, c.globs)
		if err != nil || inst.BinDir != c.want {
			t.Errorf("%s: found %s (%v), want %s", name, inst.BinDir, err, c.want)
		}
	}
	if _, err := find(old+":"+partial, []string{old}); !errors.Is(err, ErrNoPostgres) {
		t.Errorf("found something among unusable programs: %v", err)
	}
}

func TestMajorOf(t *testing.T) {
	for text, want := range map[string]int{
		"15.18 (Debian 15.18-0+deb12u1)": 15, "18": 18, "19devel": 19, "9.6.1": 9, "": 0, "x": 0,
		"99999999999999999999": 0,
	} {
		if got := majorOf(text); got != want {
			t.Errorf("majorOf(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestSettingsAreQuoted(t *testing.T) {
	got, err := confText(map[string]string{"b.x": `it's \ here`, "a": ""})
	if want := "a = ''\nb.x = 'it''s \\\\ here'\n"; err != nil || string(got) != want {
		t.Errorf("confText = %q (%v), want %q", got, err, want)
	}
	for _, bad := range []map[string]string{
		{"a\nb": "1"}, {"": "1"}, {"a": "1\nb = 2"}, {"A B": "1"},
	} {
		if _, err := confText(bad); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
}

// The automatic cluster of Debian's packages must be forbidden exactly while the server package is
// installed, and the user's file must be what it was after that, also when apt fails.
func TestInstallForbidsTheAutomaticCluster(t *testing.T) {
	failure := errors.New("no network")
	for name, fail := range map[string]error{"installed": nil, "failed": failure} {
		conf := filepath.Join(t.TempDir(), "etc", "createcluster.conf")
		const packaged = "#create_main_cluster = true\n"
		var steps []string
		in := installer{conf: conf, run: func(_ context.Context, args ...string) error {
			step := args[len(args)-1]
			steps = append(steps, step)
			switch step {
			case "postgresql-common":
				if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
					return err
				}
				return os.WriteFile(conf, []byte(packaged), 0o644)
			case "postgresql":
				text, err := os.ReadFile(conf)
				if err != nil ||
					!strings.Contains(string(text), "\ncreate_main_cluster = false\n") {
					t.Errorf("%s: installing the server with %q (%v)", name, text, err)
				}
				return fail
			}
			return nil
		}}
		if err := in.install(t.Context()); !errors.Is(err, fail) {
			t.Errorf("%s: %v", name, err)
		}
		if want := []string{"update", "postgresql-common", "postgresql"}; !slices.Equal(
			steps,
			want,
		) {
			t.Errorf("%s: steps %v", name, steps)
		}
		if text, err := os.ReadFile(conf); err != nil || string(text) != packaged {
			t.Errorf("%s: the user's file is now %q (%v)", name, text, err)
		}
	}
}

func TestForbiddingLeavesNoFileWhereNoneWas(t *testing.T) {
	in := installer{conf: filepath.Join(t.TempDir(), "none", "createcluster.conf")}
	restore, err := in.forbidCluster()
	if err != nil {
		t.Fatal(err)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(in.conf); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

// The trap of a taken port: the new server dies, and whoever holds the port answers in its place.
func TestAStrangerOnThePortIsRefused(t *testing.T) {
	ctx := t.Context()
	one, err := Start(ctx, Config{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Stop(context.Background())
	two, err := Start(ctx, Config{Name: "two"})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Stop(context.Background())

	two.Kill()
	port := two.port
	two.port = one.port
	if err := two.Restart(ctx); !errors.Is(err, ErrStranger) {
		t.Errorf("restart on another server's port: %v, want ErrStranger", err)
	}
	if err := two.check(ctx, one.DSN("postgres")); !errors.Is(err, ErrStranger) {
		t.Errorf("asking another server: %v, want ErrStranger", err)
	}
	two.port = port
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	err = two.Restart(ctx)
	if l.Close(); !errors.Is(err, ErrStranger) {
		t.Errorf("restart on a taken port: %v, want ErrStranger", err)
	}
	if err := two.Restart(ctx); err != nil {
		t.Errorf("restart once the port is free again: %v", err)
	}
}

func TestAClusterOfAnotherVersionIsNamed(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pghost-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9.6\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "made by PostgreSQL 9.6") {
		t.Errorf("start on an old data directory: %v", err)
	}
}
