package tidy

import "slices"

const (
	grpc      = "google.golang.org/grpc"
	protobuf  = "google.golang.org/protobuf"
	rpcErrors = "google.golang.org/genproto/googleapis/rpc"
	pgx       = "github.com/jackc/pgx/v5"
	backoff   = "github.com/cenkalti/backoff/v5"
	generated = "proto/gavel/v1"
	plots     = "gonum.org/v1/plot"
	mysql     = "github.com/go-sql-driver/mysql"

	middleware = "github.com/grpc-ecosystem/go-grpc-middleware/v2"
)

// Graph is the import graph of this module, from the words that everybody shares upwards. Only the
// faces towards a wire know generated code; only adapters know a database's driver; the protocol
// knows neither clock, lock, network nor file.
//
//tidy:table one row for each package or tree of packages
func Graph() []Row {
	return []Row{
		{Packages: "txn", Outside: []string{"github.com/google/uuid"}},

		{Packages: "txn/point", Inside: []string{"txn"}},
		{Packages: "txn/mutant"},

		{Packages: "txlog/vfs", Outside: []string{"golang.org/x/sys"}},
		{Packages: "txlog", Inside: []string{"txlog/vfs", "txn", "txn/mutant"},
			Outside: []string{"golang.org/x/sys"}},

		{Packages: "coordinator/protocol", Inside: []string{"txn", "txn/mutant"},
			Without: []string{"time", "sync", "context", "net", "os", "math/rand"}},
		{Packages: "coordinator/record", Inside: []string{"coordinator/protocol", "txlog", "txn"}},
		{Packages: "coordinator/core", Inside: []string{
			"coordinator/protocol", "coordinator/record", "participant", "txlog",
			"txn", "txn/mutant",
			"txn/point",
		}, Without: []string{"sync", "context", "net", "os"}},
		{Packages: "coordinator", Inside: []string{
			"coordinator/core", "coordinator/protocol", "coordinator/record", "participant",
			"txlog", "txlog/vfs", "txn", "txn/mutant", "txn/point"}},
		{Packages: "coordinator/metrics",
			Inside:  []string{"coordinator", "coordinator/protocol", "txn"},
			Outside: []string{"github.com/prometheus/client_golang"}},
		{Packages: "coordinator/server",
			Inside: []string{"coordinator", "participant/session", generated, "proto/wire/...",
				"txn"},
			Outside: []string{grpc, protobuf, rpcErrors, middleware}},

		{Packages: "coordinator/server/web",
			Inside:  []string{"coordinator/server", "proto/wire/transport"},
			Outside: []string{grpc, protobuf, "connectrpc.com/connect"}},

		{Packages: "participant", Inside: []string{"txn"}},
		{Packages: "participant/internal/fence", Inside: []string{"participant",
			"txn", "txn/mutant"}},
		{Packages: "participant/internal/conformance", Inside: []string{
			"participant/participanttest", "participant/service/servicetest"}},
		{Packages: "participant/session",
			Inside: []string{"participant", "participant/internal/fence", "txn", "txn/mutant"}},
		{Packages: "participant/participanttest", Inside: []string{"participant", "txn"}},
		{Packages: "participant/postgres/pghost", Outside: []string{pgx}},
		{Packages: "participant/postgres/pgbranch", Inside: []string{"txn", "txn/mutant"},
			Outside: []string{pgx + "/pgconn", pgx + "/pgproto3"}},
		{Packages: "participant/postgres", Inside: []string{
			"participant", "participant/internal/fence", "participant/postgres/pgbranch", "txn"},
			Outside: []string{pgx}},
		{Packages: "participant/postgres/pgsession", Inside: []string{"participant",
			"participant/postgres/pgbranch", "participant/session", "txn"},
			Outside: []string{pgx}},
		{Packages: "participant/mysql/mariahost", Outside: []string{mysql}},
		{Packages: "participant/mysql/xabranch", Inside: []string{"txn"},
			Outside: []string{mysql}},
		{Packages: "participant/mysql", Inside: []string{
			"participant", "participant/internal/fence", "participant/mysql/xabranch", "txn"},
			Outside: []string{mysql}},
		{Packages: "participant/kv",
			Inside:  []string{"participant", "participant/internal/fence", "txn", "txn/mutant"},
			Outside: []string{"go.etcd.io/bbolt"}},
		{Packages: "participant/kv", Files: "service*.go",
			Inside:  []string{"participant", generated, "proto/wire/...", "txn"},
			Outside: []string{grpc}},
		{Packages: "participant/service",
			Inside: []string{"participant", "participant/internal/fence", "txn", "txn/mutant"}},
		{Packages: "participant/service/boltjournal", Inside: []string{"participant/service"},
			Outside: []string{"go.etcd.io/bbolt"}},
		{Packages: "participant/service/pgjournal",
			Inside: []string{"participant/service", "txn/mutant"}, Outside: []string{pgx}},
		{Packages: "participant/service/servicetest", Inside: []string{"participant",
			"participant/participanttest", "participant/service", "txn"}},
		{Packages: "participant/remote",
			Inside: []string{"participant", "participant/internal/fence", "participant/session",
				generated, "proto/wire/...", "txn"},
			Outside: []string{grpc, protobuf, backoff}},

		{Packages: "proto/gavel/v1", Outside: []string{grpc, protobuf}},
		{Packages: "proto/wire",
			Inside:  []string{"participant", "participant/session", generated, "txn"},
			Outside: []string{grpc, protobuf, rpcErrors}},
		{Packages: "proto/wire/transport", Inside: []string{"proto/wire"},
			Outside: []string{grpc, middleware}},

		{Packages: "client", Inside: []string{"txn", "txn/mutant", "txn/point"}},
		{Packages: "client/internal/onpg",
			Inside:  []string{"client", "participant/postgres/pgbranch", "txn"},
			Outside: []string{pgx + "/pgconn"}},
		{Packages: "client/pgxtx",
			Inside: []string{"client", "client/internal/onpg", "participant/postgres/pgbranch",
				"txn", "txn/mutant", "txn/point"},
			Outside: []string{pgx}},
		{Packages: "client/sqltx",
			Inside: []string{"client", "client/internal/onpg", "participant/mysql/xabranch",
				"participant/postgres/pgbranch", "txn"},
			Outside: []string{mysql, pgx + "/pgconn", pgx + "/stdlib"}},
		{Packages: "client/internal/ticket", Inside: []string{"txn"}},
		{Packages: "client/internal/banks",
			Inside: []string{"client", "client/pgxtx", "coordinator", "participant/postgres",
				"participant/postgres/pghost", "txlog/vfs", "txn"},
			Outside: []string{pgx, "go.uber.org/goleak"}},
		{Packages: "client/grpctx",
			Inside:  []string{"client", "client/internal/ticket", "txn", "txn/mutant"},
			Outside: []string{grpc}},
		{Packages: "client/httptx", Inside: []string{"client", "client/internal/ticket", "txn"}},
		{Packages: "client/remote", Inside: []string{"client", generated, "proto/wire/...", "txn"},
			Outside: []string{grpc, protobuf, backoff}},

		{Packages: "client/kvtx", Inside: []string{"client", "participant/kv", "txn"}},
		{Packages: "client/gaveltest",
			Inside: []string{"client", "client/kvtx", "coordinator", "participant",
				"participant/kv", "txlog", "txlog/vfs", "txn"}},

		{Packages: "examples/...", Inside: []string{everything}, Outside: []string{everything}},
		{Packages: "cmd/...", Inside: []string{everything}, Outside: []string{everything}},
		{Packages: "integration/bench",
			Inside: []string{"client", "client/pgxtx", "client/remote", "coordinator",
				"participant/postgres", "txlog/vfs", "txn"},
			Outside: []string{grpc, pgx, "github.com/HdrHistogram/hdrhistogram-go"}},
		{Packages: "integration/bench/plot", Inside: []string{"integration/bench"},
			Outside: []string{plots}},
		{Packages: "integration/...", Inside: []string{everything}, Outside: []string{everything}},
	}
}

// Closures lists what must stay out of everything that a package links, however far down. An
// application that imports the SDK inherits no server, no command line and no other database's
// driver.
func Closures() []Closure {
	server := []string{
		"github.com/spf13/cobra", "go.etcd.io/bbolt", mysql,
		"github.com/prometheus", "go.opentelemetry.io/otel/sdk", "github.com/compose-spec",
	}
	wires := []string{grpc, protobuf, pgx}
	return []Closure{
		{Package: "client", Without: slices.Concat(wires, server)},
		{Package: "client/pgxtx", Without: slices.Concat([]string{grpc, protobuf}, server)},
		{Package: "client/grpctx", Without: slices.Concat([]string{pgx}, server)},
		{Package: "client/httptx", Without: slices.Concat(wires, server)},
		{Package: "client/remote", Without: slices.Concat([]string{pgx}, server)},
		{Package: "coordinator", Without: slices.Concat(wires, server)},
		{Package: "cmd/gavel", Without: []string{"github.com/compose-spec", "testing", plots}},
	}
}
