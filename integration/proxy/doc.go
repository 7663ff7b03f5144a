// Package proxy stands between a process and what it calls, and loses messages on purpose.
//
//	client ──▶ Relay ──▶ target          any TCP: silence in one direction, or in both
//	client ──▶ Postgres ──▶ server       a Relay that understands messages, and bends one of them
//
// A lost message is not a lost connection: whether the request or the reply was lost decides what
// is true at the database, and the client cannot tell. Postgres therefore counts messages, not
// bytes:
//
//	p, err := proxy.ListenPostgres("127.0.0.1:5432")
//	trap := p.Arm(proxy.Fault{Statement: proxy.CommitPrepared, Act: proxy.LoseReply})
//	… work …
//	<-trap.Caught()                     // the branch is committed, and its client will never hear
//
// An armed fault strikes once, at the first statement of its kind after Skip others. The proxy sees
// statements of the simple and of the extended protocol, and speaks no TLS: it refuses an
// SSLRequest, as a server without it does.
//
// Close ends all connections and returns when no goroutine is left. Everything that was held goes
// nowhere then.
package proxy
