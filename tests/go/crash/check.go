package crash

import (
	"context"
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// checker follows the store by its events and holds the server to them after every restart.
type checker struct {
	ledger *ledger
	// The store as of ledger.checked, rebuilt from events alone.
	keys map[string]*mvccpb.KeyValue
	// The revision at which each unique value was written.
	values map[string]int64
}

func newChecker(l *ledger) *checker {
	return &checker{ledger: l, keys: map[string]*mvccpb.KeyValue{}, values: map[string]int64{}}
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
	events, err := readEvents(ctx, connection, from, current)
	if err != nil {
		return fmt.Errorf("reading events %d to %d: %w", from, current, err)
	}
	for _, check := range []func() error{
		func() error { return c.checkAcknowledged(events, current) },
		func() error { return c.follow(events, from, current) },
		func() error { return checkSeen(events, seen, from) },
		func() error { return c.checkState(state) },
		func() error { return c.checkLeases(ctx, connection) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	c.ledger.checked.Store(current)
	return nil
}

// readEvents reads all events from one revision to another by a new watcher.
func readEvents(ctx context.Context, connection *grpc.ClientConn, from, to int64,
) ([]*mvccpb.Event, error) {
	if from > to {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := openWatch(ctx, connection, from)
	if err != nil {
		return nil, err
	}
	var events []*mvccpb.Event
	for {
		response, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if response.Canceled {
			return nil, fmt.Errorf("the watcher was canceled: %v", response)
		}
		events = append(events, response.Events...)
		if len(events) > 0 && events[len(events)-1].Kv.ModRevision >= to {
			return events, nil
		}
	}
}

func openWatch(ctx context.Context, connection *grpc.ClientConn, from int64,
) (pb.Watch_WatchClient, error) {
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return nil, err
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from}
	return stream, stream.Send(&pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create},
	})
}

// checkAcknowledged finds every acknowledged write at its revision, whole and unchanged.
func (c *checker) checkAcknowledged(events []*mvccpb.Event, current int64) error {
	byRevision := map[int64]map[string]string{}
	for _, event := range events {
		changes := byRevision[event.Kv.ModRevision]
		if changes == nil {
			changes = map[string]string{}
			byRevision[event.Kv.ModRevision] = changes
		}
		changes[string(event.Kv.Key)] = string(event.Kv.Value)
	}
	for _, written := range c.ledger.take() {
		if !maps.Equal(byRevision[written.revision], written.changes) {
			return fmt.Errorf("LOST: acknowledged at revision %d: %.200q; there is %.200q "+
				"(the current revision is %d)",
				written.revision, written.changes, byRevision[written.revision], current)
		}
	}
	return nil
}

// follow applies the events to the model and checks that each follows from the one before.
func (c *checker) follow(events []*mvccpb.Event, from, current int64) error {
	last := from - 1
	for _, event := range events {
		kv := event.Kv
		if kv.ModRevision != last && kv.ModRevision != last+1 {
			return fmt.Errorf("GAP: revision %d follows %d", kv.ModRevision, last)
		}
		last = kv.ModRevision
		key, before := string(kv.Key), c.keys[string(kv.Key)]
		if event.Type == mvccpb.Event_DELETE {
			if before == nil {
				return fmt.Errorf("revision %d deletes %s, which is not there", last, key)
			}
			delete(c.keys, key)
			continue
		}
		version, created := int64(1), kv.ModRevision
		if before != nil {
			version, created = before.Version+1, before.CreateRevision
		}
		if kv.Version != version || kv.CreateRevision != created {
			return fmt.Errorf("revision %d of %s has version %d, created %d; expected %d, %d",
				last, key, kv.Version, kv.CreateRevision, version, created)
		}
		id := key + "=" + string(kv.Value)
		if at, twice := c.values[id]; twice {
			return fmt.Errorf("TWICE: %.100q at revisions %d and %d", id, at, last)
		}
		c.values[id] = last
		c.keys[key] = kv
	}
	if last != max(current, from-1) {
		return fmt.Errorf("GAP: the events end at %d, the revision is %d", last, current)
	}
	return nil
}

// checkSeen compares what a watcher has received with what a new one reads of the same revisions.
func checkSeen(events, seen []*mvccpb.Event, from int64) error {
	seen = slices.DeleteFunc(slices.Clone(seen), func(event *mvccpb.Event) bool {
		return event.Kv.ModRevision < from
	})
	if len(seen) > len(events) {
		return fmt.Errorf("UNSEEN: a watcher has received %d events, there are %d",
			len(seen), len(events))
	}
	for i := range seen {
		if !proto.Equal(seen[i], events[i]) {
			return fmt.Errorf("UNSEEN: a watcher has received %v, a new one %v", seen[i], events[i])
		}
	}
	return nil
}

// checkState compares a list of everything with the model.
func (c *checker) checkState(state *pb.RangeResponse) error {
	if len(state.Kvs) != len(c.keys) || int(state.Count) != len(c.keys) {
		return fmt.Errorf("LOST: %d keys, count %d; the events make %d",
			len(state.Kvs), state.Count, len(c.keys))
	}
	for _, kv := range state.Kvs {
		if !proto.Equal(kv, c.keys[string(kv.Key)]) {
			return fmt.Errorf("LOST: the state has %v, the events make %v",
				kv, c.keys[string(kv.Key)])
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
