package crash

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// Answer is what a teller was told about one transfer.
type Answer uint8

const (
	// NoAnswer: the teller is about to ask for the commit, or was killed before it heard.
	NoAnswer Answer = iota
	// Committed: InTx returned nil.
	Committed
	// RolledBack: InTx returned an AbortedError.
	RolledBack
	// InDoubt: InTx could not learn the outcome.
	InDoubt
	// Heuristic: InTx says that a person must look.
	Heuristic
)

// answers are the words for an Answer, in their order.
func answers() []string {
	return []string{"none", "committed", "rolled back", "in doubt", "heuristic"}
}

// String is the word for the answer, as the book has it.
func (a Answer) String() string {
	if words := answers(); int(a) < len(words) {
		return words[a]
	}
	return fmt.Sprintf("INVALID(%d)", uint8(a))
}

// MarshalText writes the word.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the word.
func (a *Answer) UnmarshalText(text []byte) error {
	i := slices.Index(answers(), string(text))
	if i < 0 {
		return fmt.Errorf("crash: %q is no answer", text)
	}
	*a = Answer(i)
	return nil
}

// Line is one line that a teller writes, as JSON. It is written in one piece and before the teller
// goes on, so that a killed teller has told everything that it knew.
type Line struct {
	// N is the number of the transfer; zero in the line that says that the teller rests.
	N int64 `json:"n,omitzero"`
	// ID is the transaction, once it is known.
	ID     txn.ID `json:"id,omitzero"`
	Answer Answer `json:"answer"`
	// Why is the text of the error behind the answer.
	Why string `json:"why,omitempty"`
	// At is when it was said, by [Now]: before the commit was asked for, or after the answer came.
	At time.Duration `json:"at,omitzero"`
	// Rests says that no transfer is under way.
	Rests bool `json:"rests,omitempty"`
}

// Encode is the line with its end.
func (l Line) Encode() ([]byte, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("crash: encode a line: %w", err)
	}
	return append(text, '\n'), nil
}

// ParseLine reads what Encode wrote.
func ParseLine(text []byte) (Line, error) {
	var l Line
	if err := json.Unmarshal(text, &l); err != nil {
		return Line{}, fmt.Errorf("crash: %q is no line of a teller: %w", text, err)
	}
	return l, nil
}
