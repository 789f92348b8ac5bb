// Package events reads a server's whole history by watching, and holds it to what a history has to
// be: without gaps, each event following from the one before.
package events

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

const (
	// pollInterval is how often conditions are looked at.
	pollInterval = 5 * time.Millisecond
	// deliveryTimeout is longer than any healthy server needs to deliver an event.
	deliveryTimeout = 20 * time.Second
)

// Watch opens a watcher of all keys from a revision on.
func Watch(ctx context.Context, connection *grpc.ClientConn, from int64,
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

// Read reads all events from one revision to another by a new watcher.
func Read(ctx context.Context, connection *grpc.ClientConn, from, to int64,
) ([]*mvccpb.Event, error) {
	if from > to {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := Watch(ctx, connection, from)
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

// Follower is a watcher that resumes by itself at the revision after the last event, as clientv3
// does it, and keeps what it has received.
type Follower struct {
	cancel context.CancelFunc
	mutex  sync.Mutex
	events []*mvccpb.Event
	last   int64
	broken error
}

// Follow starts a follower at the first revision.
func Follow(connection *grpc.ClientConn) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{cancel: cancel, last: 1}
	go func() {
		for ctx.Err() == nil {
			f.receive(ctx, connection)
			select {
			case <-ctx.Done():
			case <-time.After(pollInterval):
			}
		}
	}()
	return f
}

// receive watches until the connection breaks.
func (f *Follower) receive(ctx context.Context, connection *grpc.ClientConn) {
	f.mutex.Lock()
	next := f.last + 1
	f.mutex.Unlock()
	stream, err := Watch(ctx, connection, next)
	if err != nil {
		return
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return
		}
		f.mutex.Lock()
		if response.Canceled {
			f.broken = fmt.Errorf("the follower's watcher was canceled: %v", response)
		}
		if count := len(response.Events); count > 0 {
			f.events = append(f.events, response.Events...)
			f.last = response.Events[count-1].Kv.ModRevision
		}
		f.mutex.Unlock()
	}
}

// Stop ends the follower.
func (f *Follower) Stop() { f.cancel() }

// Seen is what the follower has received and not forgotten.
func (f *Follower) Seen() []*mvccpb.Event {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.events
}

// Forget drops what it has received before a revision.
func (f *Follower) Forget(before int64) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.events = since(f.events, before)
}

// Await waits until the follower has received everything up to a revision, so that the next
// compaction does not overtake it.
func (f *Follower) Await(revision int64) error {
	deadline := time.Now().Add(deliveryTimeout)
	for {
		f.mutex.Lock()
		last, broken := f.last, f.broken
		f.mutex.Unlock()
		if broken != nil {
			return broken
		}
		if last >= revision {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("UNSEEN: the follower has received up to %d, not %d", last, revision)
		}
		time.Sleep(pollInterval)
	}
}
