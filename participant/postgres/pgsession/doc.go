// Package pgsession runs the sessions of package session at a PostgreSQL database, by the rules of
// package pgbranch.
//
//	sessions, err := pgsession.New(pgsession.Config{
//		DSN: dsn, OwnerRole: "gavel_owner", Finisher: "gavel",
//	})
//	keeper, err := session.New(session.Config{Resource: r, Database: sessions})
//
// The SQL is that of others. It runs as the role of the DSN, which is the only thing that limits
// what it may do: give it a role of its own, with the rights that clients shall have.
//
// Each statement is a message of the extended protocol, and so there is one statement in it and no
// more. Its first words are looked at: what begins or ends a transaction is refused, and COPY,
// which would wait for data. What slips through shows in its command tag, or in the session's
// state: the session is closed then, and votes No with a reason that promises nothing.
//
// Before a branch votes, search_path is set to pg_catalog: no function of a client takes the place
// of one that the vote needs. A branch that only read is rolled back. If it is serializable it is
// prepared, which has the database check what it read, and votes Yes.
//
// A connection serves many branches, one after the other, and DISCARD ALL between them: no
// setting, role, lock, table or cursor of one client is there for the next.
//
// # Values
//
//	bool                       bool
//	smallint, integer, bigint  int64
//	real, double precision     double
//	bytea                      bytes
//	everything else            text, as PostgreSQL writes it
//
// A parameter has the type that the statement gives it, and any kind of value whose notation
// PostgreSQL reads as that type fits: an int64, or a text, for a numeric. Where the statement
// leaves the type open, it is to be named: $1::int.
package pgsession
