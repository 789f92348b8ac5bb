package faults

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/events"
)

const (
	// clients work at the same time. Some stay with a member, so that the others' are not all held up
	// by it; the rest draw one for each call, so that they see what different members say.
	clients, faithful = 9, 6
	// Few keys, so that clients meet.
	keys = 6
	// pace is how long a client thinks before each call: faults are what is tested, not the load.
	pace = 15 * time.Millisecond
	// A call may take this long; then the client goes on, perhaps through another member.
	patience = time.Second
)

// load are the clients at work.
type load struct {
	stop chan struct{}
	wait sync.WaitGroup
}

// startLoad lets clients work through the members that the connections lead to.
func startLoad(past *history, members []*grpc.ClientConn, seed int64) *load {
	running := &load{stop: make(chan struct{})}
	for number := range clients {
		c := &client{
			history: past, members: members, number: number, prefix: fmt.Sprintf("%d.%d.", seed, number),
			random: rand.New(rand.NewSource(seed*clients + int64(number))),
			known:  map[string]int64{},
		}
		running.wait.Go(func() { c.run(running.stop) })
	}
	return running
}

// finish waits until no call is under way.
func (l *load) finish() {
	close(l.stop)
	l.wait.Wait()
}

type client struct {
	history *history
	members []*grpc.ClientConn
	number  int
	random  *rand.Rand
	prefix  string
	written int
	// The last revisions of keys that the client has seen.
	known map[string]int64
}

func (c *client) run(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(pace):
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c.work(ctx)
		cancel()
	}
}

func (c *client) work(ctx context.Context) {
	number := c.number % len(c.members)
	if c.number >= faithful {
		number = c.random.Intn(len(c.members))
	}
	kv := pb.NewKVClient(c.members[number])
	key := fmt.Sprint("key", c.random.Intn(keys))
	done := &call{key: key, sent: c.history.now()}
	switch drawn := c.random.Intn(100); {
	case drawn < 30:
		done.what, done.changes = "put "+key, events.Changes{key: c.value()}
		var reply *pb.PutResponse
		reply, done.err = kv.Put(ctx, putRequest(key, done.changes))
		done.revision = reply.GetHeader().GetRevision()
	case drawn < 40:
		c.putTwo(ctx, kv, done, key)
	case drawn < 60:
		c.compareAndPut(ctx, kv, done, key)
	case drawn < 65:
		c.remove(ctx, kv, done, key)
	default:
		done.stale = drawn > 90
		c.read(ctx, kv, done, key)
	}
	done.answered = c.history.now()
	done.what = fmt.Sprintf("%s through member %d", done.what, number)
	c.history.add(done)
}

// value is a unique one.
func (c *client) value() string {
	c.written++
	return fmt.Sprint(c.prefix, c.written)
}

func putRequest(key string, changes events.Changes) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(changes[key])}
}

func putOperation(key string, changes events.Changes) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: putRequest(key, changes)}}
}

// putTwo writes two keys at once, which have to appear together.
func (c *client) putTwo(ctx context.Context, kv pb.KVClient, done *call, key string) {
	other := key + "'"
	done.what = "put " + key + " and " + other
	done.changes = events.Changes{key: c.value(), other: c.value()}
	reply, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		putOperation(key, done.changes), putOperation(other, done.changes),
	}})
	done.err, done.revision = err, reply.GetHeader().GetRevision()
}

// compareAndPut writes a key if it is as the client has seen it last, and reads it otherwise.
func (c *client) compareAndPut(ctx context.Context, kv pb.KVClient, done *call, key string) {
	done.what = fmt.Sprintf("put %s if its revision is %d", key, c.known[key])
	done.changes = events.Changes{key: c.value()}
	compared := c.known[key]
	done.compared = &compared
	reply, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: compared},
		}},
		Success: []*pb.RequestOp{putOperation(key, done.changes)},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: []byte(key)},
		}}},
	})
	done.err, done.revision = err, reply.GetHeader().GetRevision()
	switch {
	case err != nil:
	case reply.Succeeded:
		c.known[key] = done.revision
	default:
		done.changes = nil
		c.see(done, reply.Responses[0].GetResponseRange())
	}
}

func (c *client) remove(ctx context.Context, kv pb.KVClient, done *call, key string) {
	done.what, done.changes = "delete "+key, events.Changes{key: ""}
	reply, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	done.err, done.revision = err, reply.GetHeader().GetRevision()
	if err == nil && reply.Deleted == 0 {
		done.changes, done.read = nil, &sight{}
	}
}

func (c *client) read(ctx context.Context, kv pb.KVClient, done *call, key string) {
	done.what = "get " + key
	if done.stale {
		done.what = "get " + key + ", however old,"
	}
	reply, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key), Serializable: done.stale})
	done.err, done.revision = err, reply.GetHeader().GetRevision()
	if err == nil {
		c.see(done, reply)
	}
}

func (c *client) see(done *call, reply *pb.RangeResponse) {
	done.read = &sight{}
	c.known[done.key] = 0
	if len(reply.Kvs) > 0 {
		done.read.kv = reply.Kvs[0]
		c.known[done.key] = reply.Kvs[0].ModRevision
	}
}
