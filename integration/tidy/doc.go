// Package tidy holds this tree to its own style: which package may import which, how long a
// function may grow, that no test is skipped, that whoever starts goroutines proves that they end.
//
// A protocol stays provable only while its core stays pure. One import of a clock in
// coordinator/protocol, or of a driver in client, compiles, passes every other test, and costs the
// property that the rest was built on. So the import graph is a table here ([Graph]), and a package
// that the table does not know is a finding as well: a new package enters by a row.
//
// # Rules
//
//   - imports: each package imports what its row of [Graph] names, and nothing else.
//   - closures: what a program that imports a package is made to link ([Closures]).
//   - shape: files of at most 600 lines, lines of at most 100 columns (a tab counts as four), and
//     functions of at most 70 lines. A function that is one long table may be longer when the last
//     line of its comment is "//tidy:table" and a reason.
//   - words: no marks of unfinished work, in code, documentation or configuration.
//   - docs: every package has a package comment, every exported name a comment.
//   - tests: nothing is skipped, nothing sleeps on the real clock.
//   - leaks: a package that starts goroutines verifies in TestMain that they ended.
//   - short: a package whose tests start databases says in TestMain what -short leaves out.
//
// Generated code is exempt from all but the import graph. Test files are exempt from the import
// graph: a test may stand above what it tests.
//
// Ratios that tell good trees from weak ones (comments in protocol and log code, test lines for
// each source line, the median function) are printed by [Tree.Measures] and not asserted: a bound
// on them would be met by padding.
package tidy
