// Package httptx takes transactions along on HTTP requests: what the called service does with its
// databases commits or rolls back with the caller's transaction. It is client/grpctx for HTTP, with
// the same rules; read there what a part of a transaction is.
//
//	web := &http.Client{Transport: httptx.Transport(http.DefaultTransport)}        // the caller
//
//	http.Handle("/", httptx.Handler(c, mux))               // the service; c is a client.Client
//
// A request whose context carries the transaction of an InTx takes it along, and replaces what it
// may have of the same names:
//
//	Gavel-Transaction-Id  its id, 36 characters
//	Gavel-Deadline        for how many milliseconds it can still commit
//
// The votes of the service are in the field Gavel-Votes of the answer, in base 64. Proxies may lose
// trailers, so that the votes are in the header wherever that can be: the answer is kept back until
// the handler has returned and its work is prepared. An answer of more than 64 KiB, or one that the
// handler flushes, is sent as it comes, and its votes are in the trailer: the body must be read to
// its end then, of which Close reads what is left if that is little.
//
// # What makes the transaction roll back
//
//	happens                      effect
//	a request fails              the caller's transaction can only roll back, whether the error is
//	                             returned or ignored
//	the answer is 400 or above   so too: the service has rolled its work back. The caller gets the
//	                             answer, and may say why
//	the handler ignores an       the branch votes No, and 409 takes the place of its answer; if
//	error of its database        that was sent already, reading it ends with an error
//	the handler panics           the service rolls back at once
//	the votes are missing, or    the request fails with ErrNoVotes: the service has no Handler, or
//	are no votes                 something on the way lost them. What it has prepared is rolled
//	                             back by the coordinator; what it committed by itself stays
//	a body is left unread, where the transaction rolls back
//	the votes are behind it
//	a request after the function it is not sent: client.ErrFinished
//	of InTx has returned
//	a request that arrives after the coordinator takes no branches: what the handler did is rolled
//	the commit began             back, and the answer is 409
//	a request is sent twice      the work of one that was not answered never commits: if it had
//	                             branches, all is rolled back
//
// [client.Detach] takes a request out of the transaction. Within a transaction a handler cannot
// take the connection over.
//
// A redirect takes the transaction along to wherever it leads: give the Transport to clients that
// ask hosts you trust, or set their CheckRedirect.
package httptx
