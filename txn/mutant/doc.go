// Package mutant breaks one rule at a time, on purpose, so that the tests can show that they would
// notice.
//
// A release build knows none of it: [On] is false, the compiler drops what depends on it, and the
// names do not reach the binary. Built with the tag mutants, a process whose environment names a
// mutant in GAVEL_MUTANT behaves as if its one line had been written wrong. The tests of package
// integration/mutants run a named test against each and expect it to fail, for the expected reason.
package mutant
