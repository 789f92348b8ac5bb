package crash

import (
	"errors"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/events"
)

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
	follow := events.Follow(connection)
	defer follow.Stop()
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
		if err := judge.check(connection, follow.Seen()); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := follow.Await(book.checked.Load()); err != nil {
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
