package coordinator

import (
	"context"
	"log/slog"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// journal turns a note into a line and a count. A transaction gets a line only if it was slow or
// did not commit; whatever needs a person is an error.
func (c *Coordinator) journal(n core.Note) {
	switch n.Kind {
	case protocol.NoteDone:
		c.journalDone(*n.Result)
	case protocol.NoteSwept:
		c.cfg.Logger.Info("finishing an orphan", "name", n.Name.String(), "resource", n.Resource,
			"label", n.Label.String(), "because", n.Reason)
	case protocol.NoteAlarm:
		c.cfg.Observer.Alarmed(n.Resource, n.Label)
		attrs := []any{"resource", n.Resource, "because", n.Reason}
		if n.Name != (txn.Name{}) {
			attrs = append(attrs, "transaction", n.ID.String(), "name", n.Name.String())
		}
		c.cfg.Logger.Error("a person is needed", attrs...)
	}
}

func (c *Coordinator) journalDone(r txn.Result) {
	c.cfg.Observer.TransactionDone(r.Outcome, r.Cause, r.Age)
	level := slog.LevelInfo
	switch {
	case r.Outcome.IsHeuristic():
		level = slog.LevelError
	case r.Outcome == txn.OutcomeCommitted && r.Age < c.cfg.SlowAfter, r.Cause == txn.CauseClient:
		return
	}
	c.cfg.Logger.Log(
		context.Background(),
		level,
		"transaction is over",
		"transaction",
		r.ID.String(),
		"label",
		r.Label,
		"outcome",
		r.Outcome.String(),
		"age",
		r.Age.String(),
		"cause",
		string(r.Cause),
		"reason",
		r.Reason,
		"resource",
		r.Resource,
		"sqlstate",
		r.SQLState,
	)
}
