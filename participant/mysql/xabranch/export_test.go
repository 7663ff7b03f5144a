package xabranch

// Literal lets a test write the statements of another program.
var Literal = literal

// IsOn is what every version of the server may say of a setting.
var IsOn = isOn
