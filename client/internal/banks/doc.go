// Package banks is where the tests of packages that take a transaction to other processes live: two
// PostgreSQL databases, bank_a with the account of alice and bank_b with that of bob, and a
// coordinator over both. A test pays from one to the other, by whatever way it is about, and then
// looks at the books.
//
//	func TestMain(m *testing.M) { os.Exit(banks.Main(m, "^(Example.*)$", nil)) }
//
//	w := banks.New(t)
//	err := w.Client.InTx(t.Context(), func(ctx context.Context) error { … })
//	w.Want(70, 130)
package banks
