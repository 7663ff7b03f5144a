// Package sql tests, with real processes and databases, that a client without a driver gets the
// atomicity that one with a driver gets: a coordinator, a participant that is killed, and whatever
// can POST JSON.
package sql
