// Package transport is how the processes of gavel reach each other: TLS with certificates that
// are read again when they change, the rule that forbids plaintext between machines, and the
// limits, the health service and the last defence against a panic that every gRPC server of gavel
// has.
//
// # Who may talk to whom
//
// With [TLS] files on both sides, a CA among them, each side proves who it is (mutual TLS,
// version 1.3 or newer). A server without a CA lets every client in. Without any files, [Server]
// and [Client] give plaintext on loopback addresses and unix sockets, and refuse everything else
// with [ErrPlaintext] unless the operator says that it is meant.
//
// # Renewed certificates
//
// The files are looked at on every handshake and loaded when they changed, so a renewed
// certificate needs no restart. While a new pair does not fit together, because only one of its
// files is in place, or while a file is unreadable, the last good set goes on being used.
package transport
