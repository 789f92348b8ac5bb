package differential

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/hosts"
)

const (
	shortSeeds, shortOperations = 3, 1000
	// 100,000 operations in all.
	soakSeeds, soakOperations   = 20, 5000
	shortClusters, soakClusters = 1, 10
	// minimizeTime bounds the search for a shorter failing sequence.
	minimizeTime = 90 * time.Second
	// lastOperations is how many operations a failure prints without a search.
	lastOperations = 10
)

// flags are what both servers are started with, besides the common ones. Without the gate, Trilith
// does not keep the hashes of compactions, which docs/compatibility.md says.
var flags = []string{
	"--watch-progress-notify-interval=200ms", "--feature-gates=CompactHashCheck=true",
}

func TestRandomOperationsGetTheSameAnswers(t *testing.T) {
	compareRandomOperations(t, startSession, shortSeeds, soakSeeds)
}

// The same on clusters of three members, each operation through any of them. Both clusters are on
// hosts of their own with the same addresses, so that the ids of the members are the same.
func TestRandomOperationsThroughRandomMembersGetTheSameAnswers(t *testing.T) {
	compareRandomOperations(t, startClusters, shortClusters, soakClusters)
}

// starter starts what a session compares.
type starter func(t *testing.T) *session

func compareRandomOperations(t *testing.T, start starter, seeds, soakSeeds int) {
	operations := shortOperations
	if cluster.Soak() {
		seeds, operations = soakSeeds, soakOperations
	}
	seeds = cluster.EnvInt(t, "DIFF_SEEDS", seeds)
	operations = cluster.EnvInt(t, "DIFF_OPS", operations)
	first := int64(cluster.EnvInt(t, "DIFF_SEED", int(time.Now().UnixNano()%1_000_000)))
	for seed := first; seed < first+int64(seeds); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Logf("DIFF_SEED=%d DIFF_SEEDS=1 DIFF_OPS=%d repeats this run", seed, operations)
			done, err := generateAndRun(t, start(t), seed, operations)
			if err == nil {
				return
			}
			t.Errorf("operation %d: %v\n%v", len(done), done[len(done)-1], err)
			if os.Getenv("DIFF_MINIMIZE") == "" {
				t.Logf("DIFF_MINIMIZE=1 looks for a shorter sequence; the last operations:\n%s",
					describe(done[max(0, len(done)-lastOperations):]))
				return
			}
			minimized, err := minimize(t, start, done)
			t.Logf("the shortest sequence found has %d operations:\n%s\nwhich ends with\n%v",
				len(minimized), describe(minimized), err)
		})
	}
}

// generateAndRun draws and sends operations until one differs. It returns what was sent.
func generateAndRun(t *testing.T, s *session, seed int64, count int) ([]operation, error) {
	defer s.close()
	defer func() { t.Logf("calls by method and code: %v", s.tally) }()
	g := &generator{random: newRandom(seed), session: s}
	var done []operation
	for len(done) < count {
		next := g.next()
		done = append(done, next)
		if err := s.do(next); err != nil {
			return done, err
		}
	}
	last := operation{method: watchSync}
	done = append(done, last)
	if err := s.do(last); err != nil {
		return done, err
	}
	for i, member := range s.members {
		if err := sameSnapshots(t, member); err != nil {
			return done, fmt.Errorf("member %d: %w", i, err)
		}
	}
	return done, nil
}

// startSession starts two fresh servers.
func startSession(t *testing.T) *session {
	t.Helper()
	reference := cluster.Start(t, cluster.Reference(t), cluster.Options{Args: flags})
	subject := cluster.Start(t, cluster.Subject(t), cluster.Options{Args: flags})
	s, err := newSession([]counterparts{{reference.Dial(), subject.Dial()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// startClusters starts two fresh clusters.
func startClusters(t *testing.T) *session {
	t.Helper()
	const size = 3
	members := make([]counterparts, size)
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.NewGroupOn(t, hosts.New(t, size+1, 1), cluster.Three(program)...)
		group.AddArgs(flags...)
		// Elections in a busy moment would be a difference.
		group.AddArgs("--election-timeout=5000")
		if err := group.Run(); err != nil {
			t.Fatal(err)
		}
		for i, member := range group.Members {
			if members[i].reference == nil {
				members[i].reference = member.Dial()
			} else {
				members[i].subject = member.Dial()
			}
		}
	}
	s, err := newSession(members)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// replay sends a recorded sequence to fresh servers and returns the first difference.
func replay(s *session, operations []operation) (int, error) {
	defer s.close()
	for i, o := range operations {
		if err := s.do(o); err != nil {
			return i, err
		}
	}
	return len(operations), s.sync()
}

// minimize leaves out ever smaller parts of a failing sequence as long as it keeps failing.
func minimize(t *testing.T, start starter, failing []operation) ([]operation, error) {
	deadline := time.Now().Add(minimizeTime)
	var failure error
	for size := len(failing) / 2; size >= 1; size /= 2 {
		for from := 0; from < len(failing); {
			if time.Now().After(deadline) {
				return failing, failure
			}
			shorter := append(append([]operation{}, failing[:from]...),
				failing[min(from+size, len(failing)):]...)
			var at int
			var err error
			t.Run("minimizing", func(t *testing.T) { at, err = replay(start(t), shorter) })
			if err != nil {
				failing, failure = shorter[:min(at+1, len(shorter))], err
			} else {
				from += size
			}
		}
	}
	return failing, failure
}

func describe(operations []operation) string {
	var text strings.Builder
	for i, o := range operations {
		fmt.Fprintf(&text, "%4d %v\n", i, o)
	}
	return text.String()
}
