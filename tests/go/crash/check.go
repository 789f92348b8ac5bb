package crash

import (
	"context"
	"fmt"
	"maps"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/events"
)

// checker follows the store by its events and holds the server to them after every restart.
type checker struct {
	ledger *ledger
	// The store as of ledger.checked, rebuilt from events alone.
	model *events.Model
}

func newChecker(l *ledger) *checker {
	return &checker{ledger: l, model: events.NewModel()}
}

// check compares everything that happened since the last check with what the server has now. seen
// are the events that a watcher has received in the meantime, through all restarts.
func (c *checker) check(connection *grpc.ClientConn, seen []*mvccpb.Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*callTimeout)
	defer cancel()
	kv := pb.NewKVClient(connection)
	state, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}},
		// The connection may be about to try again after the restart.
		grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	from, current := max(1, c.ledger.checked.Load())+1, state.Header.Revision
	all, err := events.Read(ctx, connection, from, current)
	if err != nil {
		return fmt.Errorf("reading events %d to %d: %w", from, current, err)
	}
	for _, check := range []func() error{
		func() error { return c.checkAcknowledged(all, current) },
		func() error { return c.model.Apply(all, from, current) },
		func() error { return events.CheckSeen(all, seen, from) },
		func() error { return c.model.CheckState(state) },
		func() error { return c.checkLeases(ctx, connection) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	c.ledger.checked.Store(current)
	return nil
}

// checkAcknowledged finds every acknowledged write at its revision, whole and unchanged.
func (c *checker) checkAcknowledged(all []*mvccpb.Event, current int64) error {
	byRevision := events.ByRevision(all)
	for _, written := range c.ledger.take() {
		if !maps.Equal(byRevision[written.revision], written.changes) {
			return fmt.Errorf("LOST: acknowledged at revision %d: %.200q; there is %.200q "+
				"(the current revision is %d)",
				written.revision, written.changes, byRevision[written.revision], current)
		}
	}
	return nil
}

func (c *checker) checkLeases(ctx context.Context, connection *grpc.ClientConn) error {
	reply, err := pb.NewLeaseClient(connection).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return fmt.Errorf("reading the leases: %w", err)
	}
	there := map[int64]bool{}
	for _, lease := range reply.Leases {
		there[lease.ID] = true
	}
	c.ledger.mutex.Lock()
	defer c.ledger.mutex.Unlock()
	for id, alive := range c.ledger.leases {
		if there[id] != alive && !c.ledger.doubtfulLeases[id] {
			return fmt.Errorf("LOST: lease %d is there: %v, acknowledged: %v", id, there[id], alive)
		}
	}
	return nil
}
