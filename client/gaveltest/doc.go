// Package gaveltest gives unit tests a coordinator of their own, in the test's process: nothing to
// install, no port, nothing left behind.
//
//	func TestOrder(t *testing.T) {
//		g := gaveltest.New(t, gaveltest.KV("orders"), gaveltest.KV("stock"))
//		shop := NewShop(client.New(g), g.Store("orders"), g.Store("stock"))
//
//		g.FailNext(gaveltest.Prepare, "orders")
//		if err := shop.Order(t.Context(), "apples", 3); err == nil {
//			t.Error("ordered, though orders voted no")
//		}
//		g.Settle()
//		// … and look whether stock is what it was.
//	}
//
// A KV resource is a key-value store on disk, in the test's directory; Of takes any other
// participant.Resource, such as that of a test database. The coordinator is the real one over a
// disk in memory, so that Restart is a kill -9 and what follows it.
//
// Within testing/synctest time is virtual: a transaction's timeout of a minute passes at once.
package gaveltest
