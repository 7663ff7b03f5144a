package explore

import (
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// sights is the set of things that the machine was seen to do in any history of a search. All
// worlds of a search share it.
type sights map[string]bool

func (s sights) add(words ...string) { s[strings.Join(words, "")] = true }

func (s sights) record(r protocol.Record) { s[fmt.Sprintf("append %T", r)] = true }

func (s sights) reply(r protocol.Reply) {
	switch {
	case r.Err != nil:
		s.add("refuse ", string(txn.ReasonOf(r.Err)))
	case r.Begun != nil && r.Begun.Existing != nil:
		s.add("key stands for ", r.Begun.Existing.Outcome.String())
	case r.Begun != nil:
		s.add("begun")
	case r.Result != nil:
		s.add("tell ", r.Result.Outcome.String(), " ", r.Result.Plan.String())
	}
}

func (s sights) note(n protocol.Note) {
	if n.Label != 0 {
		s.add("label ", n.Label.String())
	}
}
