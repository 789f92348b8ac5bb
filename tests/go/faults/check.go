package faults

import (
	"context"
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/events"
)

// checker holds the answers of all clients against the one history that the store has.
//
// A revision tells where in that history an operation took place. So the histories of the clients
// are linearizable if and only if each answer says what was true at its revision, and no operation
// took place before one that had been answered when it was sent.
type checker struct {
	model    *events.Model
	versions versions
	// Everything up to this revision is checked.
	checked int64
	// Calls without an answer; they may be done at any later time.
	doubtful []*call
}

func newChecker() *checker {
	return &checker{model: events.NewModel(), versions: versions{}, checked: 1}
}

// check looks at the calls since the last check, of which none is under way any more. It returns
// the events since then.
func (c *checker) check(ctx context.Context, connection *grpc.ClientConn, calls []*call,
) ([]*mvccpb.Event, error) {
	state, err := pb.NewKVClient(connection).Range(ctx,
		&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	from, current := c.checked+1, state.Header.Revision
	all, err := events.Read(ctx, connection, from, current)
	if err != nil {
		return nil, fmt.Errorf("reading events %d to %d: %w", from, current, err)
	}
	for _, done := range calls {
		c.doubt(done)
	}
	c.versions.add(all)
	for _, check := range []func() error{
		func() error { return c.judge(calls, all, current) },
		func() error { return c.model.Apply(all, from, current) },
		func() error { return c.model.CheckState(state) },
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	c.checked = current
	return all, nil
}

// doubt remembers a write without an answer.
func (c *checker) doubt(done *call) {
	if done.err != nil && done.changes != nil {
		c.doubtful = append(c.doubtful, done)
	}
}

// judge holds calls against the events of the same time.
func (c *checker) judge(calls []*call, all []*mvccpb.Event, current int64) error {
	if err := c.checkWrites(calls, all); err != nil {
		return err
	}
	if err := c.checkSights(calls, current); err != nil {
		return err
	}
	return checkOrder(calls, c.checked)
}

// checkWrites finds each acknowledged write at its revision, whole, and an author for each revision:
// one whose call was answered with it, or one who has had no answer, and learns the revision so.
func (c *checker) checkWrites(calls []*call, all []*mvccpb.Event) error {
	authors := map[int64]*call{}
	byRevision := events.ByRevision(all)
	for _, done := range calls {
		if done.err != nil || done.changes == nil {
			continue
		}
		if other := authors[done.revision]; other != nil {
			return fmt.Errorf("TWICE: one revision for\n%v and\n%v", other, done)
		}
		authors[done.revision] = done
		if there := byRevision[done.revision]; !maps.Equal(there, done.changes) {
			return fmt.Errorf("LOST: %v; there is %q", done, there)
		}
	}
	for _, revision := range slices.Sorted(maps.Keys(byRevision)) {
		if authors[revision] != nil {
			continue
		}
		changes := byRevision[revision]
		at := slices.IndexFunc(c.doubtful, func(doubtful *call) bool {
			return maps.Equal(doubtful.changes, changes)
		})
		if at < 0 {
			return fmt.Errorf("NOBODY has written %q, revision %d", changes, revision)
		}
		author := c.doubtful[at]
		c.doubtful = slices.Delete(c.doubtful, at, at+1)
		// Deletes of one key cannot be told apart, so nothing is known of when this one was sent.
		if !slices.Contains(slices.Collect(maps.Values(changes)), "") {
			author.revision = revision
		}
	}
	return nil
}

// checkSights compares what was read, or compared, with the state of the revision that the answer
// has.
func (c *checker) checkSights(calls []*call, current int64) error {
	for _, done := range calls {
		if done.err != nil {
			continue
		}
		if done.revision > current {
			return fmt.Errorf("LOST: the revision is %d, after %v", current, done)
		}
		if done.read != nil {
			there := c.versions.at(done.key, done.revision)
			if !proto.Equal(there, done.read.kv) {
				return fmt.Errorf("WRONG: %v; there was %v", done, there)
			}
		}
		if done.compared != nil {
			before := done.revision
			if done.changes != nil {
				before--
			}
			there := c.versions.at(done.key, before).GetModRevision()
			if (there == *done.compared) != (done.changes != nil) {
				return fmt.Errorf("WRONG: %v; the key's revision was %d", done, there)
			}
		}
	}
	return nil
}

// checkOrder proves that no operation takes place before one that had ended when it began.
func checkOrder(calls []*call, floor int64) error {
	sent := slices.DeleteFunc(slices.Clone(calls), func(c *call) bool {
		return c.revision == 0 || c.stale
	})
	answered := slices.DeleteFunc(slices.Clone(sent), func(c *call) bool { return c.err != nil })
	slices.SortFunc(sent, func(a, b *call) int { return int(a.sent - b.sent) })
	slices.SortFunc(answered, func(a, b *call) int { return int(a.answered - b.answered) })
	var last *call
	for _, begun := range sent {
		for len(answered) > 0 && answered[0].answered < begun.sent {
			if answered[0].revision > floor {
				floor, last = answered[0].revision, answered[0]
			}
			answered = answered[1:]
		}
		if begun.changes != nil && begun.revision <= floor || begun.revision < floor {
			return fmt.Errorf("STALE: the revision was %d already, when there began\n%v\nafter\n%v",
				floor, begun, last)
		}
	}
	return nil
}
