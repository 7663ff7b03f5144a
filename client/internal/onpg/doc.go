// Package onpg is what branches at PostgreSQL have in common, whatever kind of pool their
// connection is of: which texts they refuse, what a reader is, and how a branch ends by a plain
// COMMIT. What PostgreSQL itself demands is in participant/postgres/pgbranch.
package onpg
