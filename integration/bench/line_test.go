package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// TestRows: names are there once, a floor stands before those that are compared with it and is
// compared with nothing itself, or a ratio would be of a ratio.
func TestRows(t *testing.T) {
	seen := map[string]Row{}
	for _, r := range Rows() {
		if _, twice := seen[r.Name]; twice || r.Name == "" || r.open == nil {
			t.Errorf("%q is there twice, or cannot be opened", r.Name)
		}
		if strings.HasSuffix(r.About, ".") || r.About == "" {
			t.Errorf("%s: About is %q; it is written with a period behind it", r.Name, r.About)
		}
		if floor, there := seen[r.Floor]; r.Floor != "" && (!there || floor.Floor != "") {
			t.Errorf("%s is compared with %q", r.Name, r.Floor)
		}
		seen[r.Name] = r
	}
	if len(Names()) != len(seen) {
		t.Errorf("names %v", Names())
	}
}

// TestChoose: a line brings its floor along.
func TestChoose(t *testing.T) {
	for names, want := range map[string]string{
		"":                           strings.Join(Names(), " "),
		"2pc":                        "2pc",
		"server-classic-applied":     "2pc server-classic-applied",
		"one-resource 2pc-pipelined": "2pc 2pc-pipelined plain-pgx one-resource",
		"empty-rpc":                  "empty-rpc",
	} {
		var got []string
		for _, r := range choose(strings.Fields(names), true) {
			got = append(got, r.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", names, got, want)
		}
	}
	for _, r := range choose(nil, false) {
		if r.Marks {
			t.Errorf("%s, without markers", r.Name)
		}
	}
}

// TestTransfer: whatever the number of databases, a transfer makes no money.
func TestTransfer(t *testing.T) {
	for n := 2; n <= 8; n++ {
		move, sum := Transfer{Amount: 7, Accounts: make([]int, n)}, int64(0)
		for i := range n {
			sum += move.change(i)
		}
		if sum != 0 || move.change(1) != 7 {
			t.Errorf("%d databases: %d too much", n, sum)
		}
	}
	if got := order(Transfer{Accounts: []int{9, 3}}); !slices.Equal(got, []int{1, 0}) {
		t.Errorf("order %v", got)
	}
}

// TestAborted: an attempt is made again only if nothing of it can remain and the reason goes by.
func TestAborted(t *testing.T) {
	code := func(c string) error { return &pgconn.PgError{Code: c} }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&undone{code("55P03")}, true},
		{fmt.Errorf("x: %w", &undone{errors.Join(code("40P01"))}), true},
		{&undone{code("22012")}, false},
		{&undone{errors.New("connection lost")}, false},
		{code("40001"), false}, // nobody says that it was rolled back
		{&client.AbortedError{Cause: txn.CauseVotedNo, SQLState: "53200"}, true},
		{&client.AbortedError{Cause: txn.CauseExpired}, false},
		{&client.InDoubtError{Err: code("40001")}, false},
		{errors.New("?"), false},
	} {
		if got := aborted(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
	if u := (&undone{code("55P03")}); !strings.HasPrefix(u.Error(), "rolled back: ") {
		t.Error(u)
	}
}

// TestValidate reports every fault, and fills in what is missing.
func TestValidate(t *testing.T) {
	two := []Resource{{Name: "a"}, {Name: "b"}}
	if err := (Config{Resources: two}).Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{Resources: two[:1], Clients: []int{0, MaxClients + 1}, Branches: []int{1},
		Duration: -1, Rounds: MaxRounds + 1, Rate: -1, Accounts: -1, Lines: []string{"3pc"}}
	err := bad.Validate()
	if !errors.Is(err, ErrConfig) || strings.Count(err.Error(), "\n") != 8 {
		t.Errorf("%v", err)
	}
	c := Config{Resources: two, Branches: []int{2, 4}}.withDefaults()
	if !slices.Equal(c.Branches, []int{2}) || c.Rounds != 5 || c.Accounts != 10_000 {
		t.Errorf("%+v", c)
	}
	c.Progress(1, 2) // nobody listens
}

// TestMaxClients: the first two databases get all clients, the others those of growth.
func TestMaxClients(t *testing.T) {
	c := Config{Clients: []int{1, 64}, Branches: []int{2, 4}}
	for i, want := range []int{64, 64, growthClients, growthClients, 0} {
		if got := c.maxClients(i); got != want {
			t.Errorf("database %d: %d, want %d", i, got, want)
		}
	}
	if c.Clients = []int{1}; c.maxClients(0) != growthClients {
		t.Error("growth needs more than one")
	}
}

// TestCheckRoom: databases of one server share its slots and connections.
func TestCheckRoom(t *testing.T) {
	cfg := Config{Clients: []int{64}}
	one := func(identity string, prepared, connections int) *bank {
		return &bank{Resource: Resource{Name: identity}, identity: identity,
			maxPrepared: prepared, maxConns: connections}
	}
	for _, c := range []struct {
		banks []*bank
		want  int
	}{
		{[]*bank{one("x", 64, 84), one("y", 64, 84)}, 0},
		{[]*bank{one("x", 127, 168), one("x", 127, 168)}, 2},
		{[]*bank{one("x", 128, 167), one("x", 128, 167)}, 2},
		{[]*bank{one("x", 0, 84), one("y", 64, 10)}, 2},
	} {
		err := checkRoom(c.banks, cfg)
		if c.want == 0 && err == nil {
			continue
		}
		if !errors.Is(err, ErrRoom) || strings.Count(err.Error(), "\n")+1 != c.want {
			t.Errorf("%v, want %d faults", err, c.want)
		}
	}
}
