// Package large fills one member with very many keys, and does with it all that an operator does.
package large

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
)

const (
	// In the long form: 10 GB in 20 million keys.
	shortKeys, soakKeys = 40_000, 20_000_000
	// With its key, a value takes some 500 bytes.
	valueBytes = 480
	// etcd takes 128 operations in one transaction.
	putsPerTxn = 100
	loaders    = 8
	// Keys of one page, and how many pages one list reads, all over the keys.
	page, pages = 500, 200
	// memoryLimit is what the member may take, however many keys there are: memtables and caches are
	// bounded, and there is no index in memory.
	memoryLimit = 512 << 20
	// Longer than any of the steps takes with 20 million keys on a slow disk.
	stepTimeout = 2 * time.Hour
	// A read or a write of one key or one page is not held up by the size of the data.
	callTimeout = time.Minute
)

// site is the member with its data.
type site struct {
	t      *testing.T
	member *cluster.Member
	keys   int
	kv     pb.KVClient
	keeper pb.MaintenanceClient
}

// Whatever the number of keys: a member loads, serves, lists, compacts, defragments, hands out a
// snapshot, and starts, in bounded memory.
func TestVeryManyKeys(t *testing.T) {
	keys := shortKeys
	if cluster.Soak() {
		keys = soakKeys
	}
	keys = cluster.EnvInt(t, "LARGE_KEYS", keys)
	s := &site{t: t, keys: keys, member: cluster.Start(t, cluster.Subject(t), cluster.Options{
		Args: []string{fmt.Sprintf("--quota-backend-bytes=%d", 64<<30)},
	})}
	s.connect()
	s.step("load", func(ctx context.Context) { s.put(ctx, 0, keys) })
	for _, stop := range []struct {
		name string
		end  func() error
	}{
		{"start after a stop", s.member.Stop},
		{"start after a kill", func() error { s.member.Kill(); return nil }},
	} {
		if err := stop.end(); err != nil {
			t.Fatal(err)
		}
		s.step(stop.name, func(context.Context) {
			if err := s.member.Run(); err != nil {
				t.Fatal(err)
			}
		})
		s.connect()
	}
	s.step("paged lists", s.list)
	// A tenth of them, so that there is a past to forget.
	s.step("overwrite", func(ctx context.Context) { s.put(ctx, keys/3, keys/10) })
	last := s.revision()
	s.step("compaction", func(ctx context.Context) {
		_, err := s.kv.Compact(ctx, &pb.CompactionRequest{Revision: last, Physical: true})
		s.must(err)
	})
	s.step("defragmentation", func(ctx context.Context) {
		_, err := s.keeper.Defragment(ctx, &pb.DefragmentRequest{})
		s.must(err)
	})
	s.step("snapshot", s.snapshot)
	s.step("paged lists again", s.list)
}

func (s *site) connect() {
	connection := s.member.Dial()
	s.kv, s.keeper = pb.NewKVClient(connection), pb.NewMaintenanceClient(connection)
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// step does something while somebody else reads and writes, and tells how long it took, the worst of
// what the other one saw, and the memory that the process has ever had.
func (s *site) step(name string, do func(context.Context)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), stepTimeout)
	defer cancel()
	meanwhile, stop := context.WithCancel(ctx)
	defer stop()
	var wait sync.WaitGroup
	var calls int
	var worst time.Duration
	if s.member.Alive() {
		wait.Go(func() { calls, worst = s.goOn(meanwhile) })
	}
	begun := time.Now()
	do(ctx)
	took := time.Since(begun)
	stop()
	wait.Wait()
	peak, err := s.member.PeakBytes()
	s.must(err)
	s.t.Logf("%-20s %10v, %d calls beside it of %v at most, peak of memory %d MiB", name,
		took.Round(time.Millisecond), calls, worst.Round(time.Millisecond), peak>>20)
	if peak > memoryLimit {
		s.t.Errorf("%s: the member has taken %d MiB", name, peak>>20)
	}
}

// goOn writes and reads one key of its own until it is told to stop.
func (s *site) goOn(ctx context.Context) (calls int, worst time.Duration) {
	key := []byte("beside")
	for ; ctx.Err() == nil; calls++ {
		call, cancel := context.WithTimeout(context.Background(), callTimeout)
		value, begun := fmt.Append(nil, calls), time.Now()
		_, err := s.kv.Put(call, &pb.PutRequest{Key: key, Value: value})
		var got *pb.RangeResponse
		if err == nil {
			got, err = s.kv.Range(call, &pb.RangeRequest{Key: key})
		}
		cancel()
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != string(value) {
			s.t.Errorf("call %d finds %v: %v", calls, got, err)
			return calls, worst
		}
		worst = max(worst, time.Since(begun))
	}
	return calls, worst
}

func key(number int) []byte { return fmt.Appendf(nil, "key/%012d", number) }

// put writes count keys from first on, in transactions of many, by several clients.
func (s *site) put(ctx context.Context, first, count int) {
	var next atomic.Int64
	var wait sync.WaitGroup
	failures := make(chan error, loaders)
	for loader := range loaders {
		wait.Go(func() {
			random := rand.New(rand.NewSource(int64(first + loader)))
			for {
				from := int(next.Add(putsPerTxn)) - putsPerTxn
				if from >= count {
					return
				}
				txn := &pb.TxnRequest{}
				for number := from; number < min(from+putsPerTxn, count); number++ {
					value := make([]byte, valueBytes)
					random.Read(value)
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
						RequestPut: &pb.PutRequest{Key: key(first + number), Value: value},
					}})
				}
				if _, err := s.kv.Txn(ctx, txn); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	select {
	case err := <-failures:
		s.t.Fatal(err)
	default:
	}
}

// list reads pages all over the keys, with the count of all that follow.
func (s *site) list(ctx context.Context) {
	for number := range pages {
		from := s.keys / pages * number
		got, err := s.kv.Range(ctx, &pb.RangeRequest{Key: key(from), RangeEnd: []byte("key0"), Limit: page})
		s.must(err)
		left := s.keys - from
		if got.Count != int64(left) || len(got.Kvs) != min(page, left) || got.More != (left > page) {
			s.t.Fatalf("the page from %d has %d keys of %d, more: %v", from, len(got.Kvs), got.Count, got.More)
		}
		for i, kv := range got.Kvs {
			if string(kv.Key) != string(key(from+i)) || len(kv.Value) != valueBytes {
				s.t.Fatalf("%s has %d bytes, in the place of key %d", kv.Key, len(kv.Value), from+i)
			}
		}
	}
}

func (s *site) revision() int64 {
	ctx, cancel := context.WithTimeout(s.t.Context(), callTimeout)
	defer cancel()
	got, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("x")}, grpc.WaitForReady(true))
	s.must(err)
	return got.Header.Revision
}

// snapshot takes one without keeping it: there may be no room for a second copy.
func (s *site) snapshot(ctx context.Context) {
	stream, err := s.keeper.Snapshot(ctx, &pb.SnapshotRequest{})
	s.must(err)
	size := 0
	for {
		blob, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		s.must(err)
		size += len(blob.Blob)
	}
	if least := s.keys * valueBytes; size < least {
		s.t.Errorf("a snapshot of %d bytes for %d bytes of values", size, least)
	}
}
