package faults

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"trilith.dev/tests/internal/events"
)

func written(key, value string, revision int64, sent, answered time.Duration) *call {
	return &call{
		what: "put " + key, changes: events.Changes{key: value}, revision: revision,
		sent: sent, answered: answered,
	}
}

func got(key string, kv *mvccpb.KeyValue, revision int64, sent, answered time.Duration) *call {
	return &call{
		what: "get " + key, key: key, read: &sight{kv}, revision: revision,
		sent: sent, answered: answered,
	}
}

func event(key, value string, revision int64) *mvccpb.Event {
	return &mvccpb.Event{Kv: &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), ModRevision: revision,
	}}
}

func unanswered(c *call) *call {
	c.err, c.revision = errors.New("nobody knows"), 0
	return c
}

func comparing(c *call, expected int64) *call {
	for c.key = range c.changes {
	}
	c.compared = &expected
	return c
}

// Each lie that a client may be told is found, and what is true is not taken for one.
func TestTheCheckerFindsEachLie(t *testing.T) {
	first, second := event("a", "1", 2), event("a", "2", 3)
	both := []*mvccpb.Event{first, second}
	one, two := written("a", "1", 2, 0, 1), written("a", "2", 3, 2, 3)
	for name, trial := range map[string]struct {
		calls  []*call
		events []*mvccpb.Event
		lie    string
	}{
		"two writes":              {[]*call{one, two}, both, ""},
		"a lost write":            {[]*call{one, two}, both[:1], "LOST"},
		"a write of somebody":     {[]*call{one}, both, "NOBODY"},
		"two with one revision":   {[]*call{one, written("a", "1", 2, 0, 1)}, both, "TWICE"},
		"another value":           {[]*call{written("a", "x", 2, 0, 1), two}, both, "LOST"},
		"half of a write":         {[]*call{{changes: events.Changes{"a": "1", "b": "1"}, revision: 2}}, both, "LOST"},
		"an unknown one done":     {[]*call{one, unanswered(written("a", "2", 0, 2, 3))}, both, ""},
		"an unknown one not done": {[]*call{one, unanswered(written("a", "2", 0, 2, 3))}, both[:1], ""},
		"one done before it was sent": {
			[]*call{unanswered(written("a", "1", 0, 4, 5)), two}, both, "STALE",
		},
		"writes in the wrong order": {[]*call{written("a", "1", 2, 4, 5), two}, both, "STALE"},
		"writes at the same time":   {[]*call{written("a", "1", 2, 2, 4), two}, both, ""},
		"a read":                    {[]*call{one, two, got("a", second.Kv, 3, 4, 5)}, both, ""},
		"a read at the same time":   {[]*call{one, two, got("a", first.Kv, 2, 1, 4)}, both, ""},
		"a stale read":              {[]*call{one, two, got("a", first.Kv, 2, 4, 5)}, both, "STALE"},
		"a read of what never was":  {[]*call{one, two, got("a", first.Kv, 3, 4, 5)}, both, "WRONG"},
		"a read of nothing":         {[]*call{one, two, got("a", nil, 3, 4, 5)}, both, "WRONG"},
		"a read of the future":      {[]*call{one, two, got("a", second.Kv, 4, 4, 5)}, both, "LOST"},
		"a compare that holds":      {[]*call{one, comparing(written("a", "2", 3, 2, 3), 2)}, both, ""},
		"a compare that does not":   {[]*call{one, comparing(written("a", "2", 3, 2, 3), 0)}, both, "WRONG"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChecker()
			c.versions.add(trial.events)
			calls := make([]*call, len(trial.calls))
			for i, done := range trial.calls {
				again := *done
				calls[i] = &again
				c.doubt(calls[i])
			}
			err := c.judge(calls, trial.events, trial.events[len(trial.events)-1].Kv.ModRevision)
			if (err == nil) != (trial.lie == "") {
				t.Fatalf("found %v, expected %q", err, trial.lie)
			}
			if err != nil && !strings.HasPrefix(err.Error(), trial.lie) {
				t.Errorf("found %v, expected %q", err, trial.lie)
			}
		})
	}
}
