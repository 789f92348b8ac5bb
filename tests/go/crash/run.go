package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
)

// pollInterval is how often conditions are looked at.
const pollInterval = 5 * time.Millisecond

// follower is a watcher that resumes by itself at the revision after the last event, as clientv3
// does it, and keeps all that it has received.
type follower struct {
	cancel context.CancelFunc
	mutex  sync.Mutex
	events []*mvccpb.Event
	broken error
}

func startFollower(connection *grpc.ClientConn) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{cancel: cancel}
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
func (f *follower) receive(ctx context.Context, connection *grpc.ClientConn) {
	next := int64(2)
	f.mutex.Lock()
	if len(f.events) > 0 {
		next = f.events[len(f.events)-1].Kv.ModRevision + 1
	}
	f.mutex.Unlock()
	stream, err := openWatch(ctx, connection, next)
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
		f.events = append(f.events, response.Events...)
		f.mutex.Unlock()
	}
}

func (f *follower) seen() ([]*mvccpb.Event, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.events, f.broken
}

// awaitRevision waits until the follower has received everything up to a revision, so that the
// next compaction does not overtake it.
func (f *follower) awaitRevision(revision int64) error {
	deadline := time.Now().Add(callTimeout)
	for {
		events, broken := f.seen()
		if broken != nil {
			return broken
		}
		if revision <= 1 || len(events) > 0 && events[len(events)-1].Kv.ModRevision >= revision {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("UNSEEN: the follower has not received revision %d", revision)
		}
		time.Sleep(pollInterval)
	}
}

var errLoad = errors.New("the server stopped before the fault was injected")

// server is what is tried: one member, or several.
type server interface {
	// Dial opens a connection that outlives the faults.
	Dial() *grpc.ClientConn
	// Alive tells whether all of it runs.
	Alive() bool
	// Run starts what does not run, and waits until all of it serves.
	Run() error
}

// trial is a series of faults against a server, with load and checks.
type trial struct {
	server server
	// fault stops the server, or a part of it, while the load runs, and makes it ready to start
	// again.
	fault func() error
	// writes are waited for before each fault, at least one and at most this many.
	writes int64
	// size is that of the values, in bytes.
	size int
}

// run repeats: load, fault, restart, check. The first error ends it.
func (tr *trial) run(t *testing.T, rounds int, seed int64) error {
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	connection := tr.server.Dial()
	book := newLedger()
	judge := newChecker(book)
	follow := startFollower(connection)
	defer follow.cancel()
	for round := range rounds {
		running := startLoad(connection, book, round, seed, tr.size)
		running.awaitWrites(1 + random.Int63n(tr.writes))
		if !tr.server.Alive() {
			running.finish()
			return errLoad
		}
		err := tr.fault()
		running.finish()
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := tr.server.Run(); err != nil {
			return fmt.Errorf("round %d: restart: %w", round, err)
		}
		seen, _ := follow.seen()
		if err := judge.check(connection, seen); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := follow.awaitRevision(book.checked.Load()); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	t.Logf("%d writes acknowledged, %d without an answer, revision %d",
		book.count.Load(), len(book.unknown), book.checked.Load())
	return nil
}

// pickSeed draws a seed, or takes it from CRASH_SEED to repeat a run.
func pickSeed(t *testing.T) int64 {
	return int64(cluster.EnvInt(t, "CRASH_SEED", int(time.Now().UnixNano()%1_000_000)))
}

// rounds is how often a fault is repeated: short in the suite, long in the soak.
func rounds(t *testing.T, short, long int) int {
	if cluster.Soak() {
		short = long
	}
	return cluster.EnvInt(t, "CRASH_ROUNDS", short)
}
