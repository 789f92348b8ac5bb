// Package crash stops servers in every rude way and checks that nothing acknowledged is lost,
// nothing is applied twice, and no watcher misses an event.
package crash

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	workers = 8
	// Few keys for each worker, so that they are overwritten and deleted often.
	keysPerWorker = 6
	// A call that takes longer hangs: the server answers or is gone.
	callTimeout = 20 * time.Second
)

// attempt is one write whose outcome is known (acknowledged with a revision) or unknown.
type attempt struct {
	revision int64
	// The events that it makes if it is applied: key and value; an empty value stands for a delete.
	changes map[string]string
}

// ledger collects what the workers tried. Unknown outcomes stay in it for the rest of the run.
type ledger struct {
	mutex        sync.Mutex
	acknowledged []attempt
	unknown      []attempt
	leases       map[int64]bool
	// Leases whose grant or revoke was not answered.
	doubtfulLeases map[int64]bool
	count          atomic.Int64
	// Everything up to this revision was checked, so it may be compacted.
	checked atomic.Int64
}

func newLedger() *ledger {
	return &ledger{leases: map[int64]bool{}, doubtfulLeases: map[int64]bool{}}
}

func (l *ledger) record(err error, done attempt) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err != nil {
		l.unknown = append(l.unknown, done)
		return
	}
	l.acknowledged = append(l.acknowledged, done)
	l.count.Add(1)
}

func (l *ledger) recordLease(id int64, alive bool, err error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if err != nil {
		l.doubtfulLeases[id] = true
		return
	}
	l.leases[id] = alive
}

// take hands over what was acknowledged since the last time.
func (l *ledger) take() []attempt {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	taken := l.acknowledged
	l.acknowledged = nil
	return taken
}

// load is a set of workers that write until the first error or until they are told to stop.
type load struct {
	ledger *ledger
	round  int
	stop   chan struct{}
	wait   sync.WaitGroup
}

// startLoad starts the workers of one round. Values are unique over all rounds.
func startLoad(connection *grpc.ClientConn, l *ledger, round int, seed int64, size int) *load {
	running := &load{ledger: l, round: round, stop: make(chan struct{})}
	for number := range workers {
		w := &worker{
			load: running, number: number, size: size,
			random: rand.New(rand.NewSource(seed*1000 + int64(round*workers+number))),
			kv:     pb.NewKVClient(connection), lease: pb.NewLeaseClient(connection),
		}
		running.wait.Go(w.run)
	}
	return running
}

func (l *load) finish() {
	close(l.stop)
	l.wait.Wait()
}

// awaitWrites waits until count more writes were acknowledged, or all workers have given up.
func (l *load) awaitWrites(count int64) {
	goal := l.ledger.count.Load() + count
	ended := make(chan struct{})
	go func() {
		l.wait.Wait()
		close(ended)
	}()
	for l.ledger.count.Load() < goal {
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

type worker struct {
	load     *load
	number   int
	sequence int
	size     int
	random   *rand.Rand
	kv       pb.KVClient
	lease    pb.LeaseClient
	leases   []int64
}

func (w *worker) run() {
	for {
		select {
		case <-w.load.stop:
			return
		default:
		}
		if err := w.step(); err != nil {
			return
		}
	}
}

func (w *worker) step() error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	w.sequence++
	switch drawn := w.random.Intn(100); {
	case drawn < 60:
		return w.put(ctx, 0)
	case drawn < 85:
		return w.txn(ctx)
	case drawn < 92:
		return w.remove(ctx)
	case drawn < 97:
		return w.useLease(ctx)
	}
	checked := w.load.ledger.checked.Load()
	if w.number != 0 || checked == 0 {
		return nil
	}
	// Refused when it was compacted before; only that the server goes on matters here.
	_, _ = w.kv.Compact(ctx, &pb.CompactionRequest{Revision: checked})
	return nil
}

func (w *worker) key(i int) string { return fmt.Sprintf("worker%d/%d", w.number, i) }

// value is unique; a suffix brings it to the wanted size.
func (w *worker) value() string {
	unique := fmt.Sprintf("%d.%d.%d.", w.load.round, w.number, w.sequence)
	return unique + string(make([]byte, max(0, w.size-len(unique))))
}

func (w *worker) put(ctx context.Context, lease int64) error {
	key, value := w.key(w.random.Intn(keysPerWorker)), w.value()
	reply, err := w.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})
	w.load.ledger.record(err, attempt{
		revision: reply.GetHeader().GetRevision(), changes: map[string]string{key: value},
	})
	return err
}

// txn writes two keys at once, which have to appear together.
func (w *worker) txn(ctx context.Context) error {
	first := w.random.Intn(keysPerWorker)
	done := attempt{changes: map[string]string{}}
	var operations []*pb.RequestOp
	for _, i := range []int{first, (first + 1) % keysPerWorker} {
		key, value := w.key(i), w.value()
		done.changes[key] = value
		put := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
		operations = append(operations, &pb.RequestOp{
			Request: &pb.RequestOp_RequestPut{RequestPut: put},
		})
	}
	reply, err := w.kv.Txn(ctx, &pb.TxnRequest{Success: operations})
	done.revision = reply.GetHeader().GetRevision()
	w.load.ledger.record(err, done)
	return err
}

func (w *worker) remove(ctx context.Context) error {
	key := w.key(w.random.Intn(keysPerWorker))
	reply, err := w.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	if err == nil && reply.Deleted == 0 {
		return nil
	}
	w.load.ledger.record(err, attempt{
		revision: reply.GetHeader().GetRevision(), changes: map[string]string{key: ""},
	})
	return err
}

// useLease grants a lease and attaches a key, or revokes one with its keys.
func (w *worker) useLease(ctx context.Context) error {
	if len(w.leases) > 0 && w.random.Intn(2) == 0 {
		id := w.leases[0]
		w.leases = w.leases[1:]
		_, err := w.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		w.load.ledger.recordLease(id, false, err)
		return err
	}
	id := int64(1 + w.load.round*10_000_000 + w.number*1_000_000 + w.sequence)
	_, err := w.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 100_000})
	w.load.ledger.recordLease(id, true, err)
	if err != nil {
		return err
	}
	w.leases = append(w.leases, id)
	return w.put(ctx, id)
}
