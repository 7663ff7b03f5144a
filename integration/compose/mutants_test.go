package compose

import (
	"slices"
	"strings"
	"testing"
)

// mutant is the compose file with one text replaced everywhere, and what must be said about it.
type mutant struct{ fact, old, new, want string }

func mutants() []mutant {
	const slots, ready = "max_prepared_transactions=200", "http://127.0.0.1:7441/readyz"
	return []mutant{
		{"the parts", "      - participant\n", "      - partisan\n", "0 participants, want 2"},
		{"the parts", "postgres:15", "mysql:9", "0 databases, want 2"},
		{"the parts", "      - coordinator\n", "      - dev\n", "0 coordinators, want 1"},
		{"health", ready, "http://127.0.0.1:7451/readyz", "coordinator is not asked"},
		{"health", ready, "http://127.0.0.1:7441/", "coordinator is not asked"},
		{"health", `      test: ["CMD", "wget"`, `      disable: true # ["CMD", "wget"`,
			"participant-a has no health check"},
		{"images", "image: postgres:15", "image: postgres", `bank-a runs "postgres"`},
		{"images", "image: postgres:15", "image: postgres:latest", `bank-b runs "postgres:latest"`},
		{"images", "dockerfile: deploy/Dockerfile", "dockerfile: Dockerfile",
			"coordinator is not built from this tree"},
		{"prepared slots", slots, "max_prepared_transactions=0", "bank-a cannot prepare"},
		{"prepared slots", `"-c", "` + slots + `"`, `"` + slots + `"`, "bank-b cannot prepare"},
		{"prepared slots", "postgres:15", "postgres:9", "bank-a is not PostgreSQL 15 or later"},
		{"secrets", "POSTGRES_PASSWORD_FILE: /secrets/password", "POSTGRES_PASSWORD: bank",
			"bank-a has its secret in POSTGRES_PASSWORD"},
		{"secrets", "POSTGRES_PASSWORD_FILE", "PGDATA", "bank-b has no password"},
		{"secrets", "file:/secrets/dsn", "postgres://bank-a/bank",
			"participant-a does not name its database by reference"},
		{"secrets", "file:/secrets/dsn", "postgres://bank:bank@bank-a/bank",
			"participant-b has a password on its command line"},
		{"order", "log-init: {condition: service_completed_successfully}",
			"log-init: {condition: service_started}",
			"coordinator waits for log-init as service_started"},
		{"order", "bank-a: {condition: service_healthy}", "bank-a: {condition: service_started}",
			"participant-a waits for bank-a as service_started"},
		{"order", "      participant-b: {condition: service_healthy}\n", "",
			"coordinator does not wait for participant-b"},
		{"order",
			"    depends_on:\n      secrets: {condition: service_completed_successfully}\n", "",
			"bank-a waits for nothing"},
		{"published ports", "127.0.0.1:7440:7440", "7440:7440", "publishes 7440 beyond loopback"},
		{"published ports", "127.0.0.1:7441:7441", "0.0.0.0:7441:7441",
			"publishes 7441 beyond loopback"},
		{"published ports", "127.0.0.1:7440:7440", "127.0.0.1:7450:7450",
			"published are [7441 7450]"},
		{"data on volumes", "log:/var/lib/gavel", "./log:/var/lib/gavel",
			"coordinator keeps /var/lib/gavel outside of named volumes"},
		{"data on volumes", "bank_a:/var/lib/postgresql/data", "bank_b:/var/lib/postgresql/data",
			"bank_b is written by [bank-a bank-b]"},
		{"data on volumes", "bank_b:/var/lib/postgresql/data", "bank_b:/var/lib/postgresql",
			"bank-b forgets /var/lib/postgresql/data"},
		{"data on volumes", "participant_a:/var/lib/gavel", "participant_a:/var/lib/gavel:ro",
			"participant-a forgets /var/lib/gavel"},
		{"hardening", "  read_only: true\n", "", "coordinator may write to its own image"},
		{"hardening", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "coordinator keeps capabilities"},
		{"hardening", "  cap_drop: [ALL]", "  user: root\n  cap_drop: [ALL]", "log-init is root"},
		{"hardening", "no-new-privileges:true", "apparmor:unconfined",
			"participant-b may gain privileges"},
		{"plain text", "      - --insecure\n", "", "coordinator listens beyond loopback"},
		{"plain text", "=0.0.0.0:", "=127.0.0.1:", "or has it for nothing"},
		{"resources and URLs", "bank_a=grpc", "bank_c=grpc", "has resources [bank_b=grpc"},
		{"resources and URLs", "--grpc=0.0.0.0:7450", "--grpc=0.0.0.0:7455", "want [bank_a=grpc"},
		{"resources and URLs", "--name=bank_b", "--name=bank",
			"bank=grpc://participant-b:7450"},
		{"resources and URLs", "networks: [bank_a, gavel]", "networks: [bank_a]",
			"shares no network with grpc://participant-a:7450"},
		{"the log is made", `"log", "init"`, `"log", "verify"`, "nothing makes the log"},
		{"the log is made", `"--if-missing", `, "", "nothing makes the log"},
		{"the log is made", "      log-init: {condition: service_completed_successfully}\n", "",
			"nothing makes the log"},
		{"the log is made", "- log:/var/lib/gavel\n    networks",
			"- bank_a:/var/lib/gavel\n    networks", "nothing makes the log"},
	}
}

// TestEveryFactCanFail breaks the file in one place at a time. A replacement that no longer finds
// its text is a failure too: it would test nothing.
func TestEveryFactCanFail(t *testing.T) {
	text := composeFile(t)
	for _, m := range mutants() {
		if !strings.Contains(text, m.old) {
			t.Errorf("%s: the file does not hold %q", m.fact, m.old)
			continue
		}
		p, err := load(t.Context(), strings.ReplaceAll(text, m.old, m.new))
		if err != nil {
			t.Errorf("%s: %q is no compose file: %v", m.fact, m.new, err)
			continue
		}
		faults := facts()[m.fact](p)
		found := func(s string) bool { return strings.Contains(s, m.want) }
		if !slices.ContainsFunc(faults, found) {
			t.Errorf("%s: %q for %q: want %q among %q", m.fact, m.new, m.old, m.want, faults)
		}
	}
}

// TestEveryFactHasAMutant keeps the table above complete.
func TestEveryFactHasAMutant(t *testing.T) {
	for name := range facts() {
		if !slices.ContainsFunc(mutants(), func(m mutant) bool { return m.fact == name }) {
			t.Errorf("no mutant breaks %q", name)
		}
	}
}

func TestObsoleteVersion(t *testing.T) {
	if obsolete("version: \"3\"\nservices: {}\n") == "" {
		t.Error("a version key was not found")
	}
}

// TestLoadIsStrict proves that the loader itself refuses what compose would: here a misspelt key
// and a volume that nobody declared.
func TestLoadIsStrict(t *testing.T) {
	text := composeFile(t)
	for old, broken := range map[string]string{
		"    depends_on:":      "    depend_on:",
		"  participant_a:\n  ": "  participant_x:\n  ",
	} {
		if _, err := load(t.Context(), strings.Replace(text, old, broken, 1)); err == nil {
			t.Errorf("%q for %q was accepted", broken, old)
		}
	}
}
