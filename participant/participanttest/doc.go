// Package participanttest is what every adapter of a resource manager must pass, whoever wrote it.
//
// The promises of participant.Resource are few, and each of them was broken by some transaction
// manager that is in use today: a refused prepare counted as a vote, "does not exist" taken for
// "committed", a deposed coordinator's call obeyed, another owner's branch touched. The suite makes
// each of these situations at the real resource and looks at the effects, not only at the answers.
//
//	func TestConformance(t *testing.T) {
//		participanttest.Run(t, participanttest.Harness{
//			Open:   func(*testing.T) (participant.Resource, error) { return kv.Open(dir) },
//			Begin:  …,
//			Traits: participanttest.Traits{Proof: participanttest.ProofNone},
//		})
//	}
//
// An adapter author supplies a [Harness]: how to open the adapter, how an application works in a
// branch, and how to do to the resource what operators and crashes do to it.
// [Cases] are what it is asked; the [Report] says how that went, and is printed at the end.
//
// Where resources differ, [Traits] say how, and the suite then asserts that the adapter says so
// too: an adapter without proof must answer Gone and not guess, one that only one process can open
// must refuse the second, one that cannot commit in one phase must not claim to. What the report
// then calls "not asked" is what such a claim would promise.
package participanttest
