package pghost

// Sweep lets a test remove what a killed process has left, without starting a server for it.
var Sweep = sweep
