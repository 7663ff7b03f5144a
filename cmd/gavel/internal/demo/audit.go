package demo

import "fmt"

// audit compares what is written with what was said, and names everything that is not as promised.
func audit(b books, answers []heard) []error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf(format, args...))
	}
	if b.sum != total {
		fault("the sum of all balances was %d and is %d", total, b.sum)
	}
	for i := range b.ledgers {
		for key, amount := range b.ledgers[i] {
			other, both := b.ledgers[1-i][key]
			switch {
			case !both:
				fault("%s is in the ledger of %s alone", key, bankNames[i])
			case amount != -other && i == 0:
				fault("%s took %d and gave %d", key, amount, other)
			}
		}
	}
	said := map[string]bool{}
	for _, h := range answers {
		said[h.key] = true
		_, written := b.ledgers[0][h.key]
		if written != (h.answer == committed) {
			fault("%s: its client was told %q, and the ledger says otherwise", h.key, h.answer)
		}
	}
	for key := range b.ledgers[0] {
		if !said[key] {
			fault("%s is in the ledgers, and no client was told", key)
		}
	}
	return faults
}

// counts are the answers by kind.
type counts struct{ committed, rolledBack, doubted int }

func tally(answers []heard) counts {
	var n counts
	for _, h := range answers {
		switch h.answer {
		case committed:
			n.committed++
		case rolledBack:
			n.rolledBack++
		}
		if h.doubted {
			n.doubted++
		}
	}
	return n
}
