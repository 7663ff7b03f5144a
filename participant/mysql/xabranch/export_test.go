package xabranch

// Literal lets a test write the statements of another program.
var Literal = literal
