// Package onpg is how branches at PostgreSQL end that an application runs on connections of its
// own, whatever kind of pool these are of: what a verdict means for it, and how a branch ends by a
// plain COMMIT. What PostgreSQL itself demands is in participant/postgres/pgbranch.
package onpg
