// Package compose holds docker-compose.yml and the image behind it to what they promise: that a
// person who has only docker can see a commit across two databases, and that nothing in the file is
// worse than what the documentation asks of a real installation.
//
// A compose file rots in silence. Nobody's build reads it, a flag that was renamed shows only when
// a container exits, and a database without max_prepared_transactions starts happily and refuses
// its first PREPARE. So the tests load the file as docker compose does, check every fact that the
// stack depends on, and hold each flag against the help of the binary built from this tree. Each
// check is itself tested: a copy of the file with that one fact broken must be refused for that
// reason.
//
// No container is started here.
package compose
