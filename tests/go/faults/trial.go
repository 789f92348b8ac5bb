package faults

import (
	"context"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/events"
	"trilith.dev/tests/internal/hosts"
)

const (
	members = 3
	// A leader has to be back within five election timeouts. What is measured here contains the
	// waiting for a processor, on a machine with few of them that has other work to do; so the
	// figure is told, and only several times as much is a failure.
	promisedTimeouts, toleratedTimeouts = 5, 30
	// writesBetween are how many writes are acknowledged before a fault, and after it, at least.
	writesBetween = 30
	// answerTimeout is how long so many answers may take on a machine that has other work to do.
	answerTimeout = 120 * time.Second
	// memoryLimit is for one member. A new one takes 50 MB; memtables and caches are bounded.
	memoryLimit = 256 << 20
)

// trial is a cluster on hosts of its own, with clients whose histories are checked.
type trial struct {
	t       *testing.T
	network *hosts.Network
	group   *cluster.Group
	random  *rand.Rand
	seed    int64
	round   int

	electionTimeout time.Duration

	history     *history
	checker     *checker
	connections []*grpc.ClientConn
	followers   []*events.Follower
	// restarted tells that processes were started to heal the last fault.
	restarted bool
	// behind is the member that has to be sent the whole state, after so many times before, or nil.
	behind    *cluster.Member
	installed int
	// The longest that a leader was missed, and the most memory that a member has had.
	longest time.Duration
	peak    int
}

// newTrial founds a cluster; prepare is called before its members start.
func newTrial(t *testing.T, programs []cluster.Program, electionTimeout time.Duration,
	prepare func(*trial),
) *trial {
	seed := int64(cluster.EnvInt(t, "FAULTS_SEED", int(time.Now().UnixNano()%1_000_000)))
	t.Logf("FAULTS_SEED=%d draws the same faults again", seed)
	tr := &trial{
		t: t, electionTimeout: electionTimeout, seed: seed, random: rand.New(rand.NewSource(seed)),
		history: newHistory(), checker: newChecker(),
	}
	tr.network = hosts.New(t, members+1, seed)
	tr.group = cluster.NewGroupOn(t, tr.network, programs...)
	// Logs are short, so that members need whole states from each other.
	tr.group.AddArgs("--snapshot-count=100", "--snapshot-catchup-entries=10", "--log-level=debug",
		fmt.Sprintf("--election-timeout=%d", electionTimeout.Milliseconds()),
		fmt.Sprintf("--heartbeat-interval=%d", electionTimeout.Milliseconds()/10))
	prepare(tr)
	if err := tr.group.Run(); err != nil {
		t.Fatal(err)
	}
	for _, member := range tr.group.Members {
		connection := member.Dial()
		tr.connections = append(tr.connections, connection)
		follower := events.Follow(connection)
		t.Cleanup(follower.Stop)
		tr.followers = append(tr.followers, follower)
	}
	t.Cleanup(func() {
		t.Logf("%d calls answered, %d not; revision %d; a leader was missed for %v at most "+
			"(%.1f election timeouts, promised are %d), a member has taken %d MB at most, "+
			"%d states were sent",
			tr.history.answered, tr.history.unknown, tr.checker.checked, tr.longest,
			tr.inTimeouts(tr.longest), promisedTimeouts, tr.peak>>20, tr.countInstalls())
	})
	return tr
}

func (tr *trial) countInstalls() (count int) {
	for _, member := range tr.group.Members {
		count += logged(member, tookState)
	}
	return count
}

func (tr *trial) inTimeouts(took time.Duration) float64 {
	return float64(took) / float64(tr.electionTimeout)
}

// run lets clients work, strikes, heals after a while, and checks what the clients were told.
func (tr *trial) run(f fault, lasts time.Duration) {
	tr.t.Helper()
	tr.round++
	running := startLoad(tr.history, tr.connections, tr.seed+int64(tr.round)*1000)
	tr.awaitWrites(f.name + ", before")
	heal, err := f.strike(tr)
	if err != nil {
		tr.t.Fatalf("%s: %v", f.name, err)
	}
	// How long the fault lasts.
	<-time.After(lasts)
	healed := time.Now()
	if err := heal(); err != nil {
		tr.t.Fatalf("%s: healing: %v", f.name, err)
	}
	missed := tr.awaitLeader(healed)
	tr.awaitWrites(f.name + ", after")
	running.finish()
	// A member that takes over a whole state serves nobody meanwhile.
	if err := tr.group.Run(); err != nil {
		tr.t.Fatalf("round %d, %s: %v", tr.round, f.name, err)
	}
	if err := tr.check(); err != nil {
		tr.t.Fatalf("round %d, %s: %v", tr.round, f.name, err)
	}
	if tr.behind != nil && logged(tr.behind, tookState) == tr.installed {
		tr.t.Errorf("round %d, %s: nothing was cut off the log", tr.round, f.name)
	}
	tr.behind = nil
	tr.t.Logf("%-40s for %5v, a leader after %.2f election timeouts, revision %d",
		f.name, lasts.Round(time.Second/10), tr.inTimeouts(missed), tr.checker.checked)
	if tr.inTimeouts(missed) > toleratedTimeouts {
		tr.t.Errorf("%s: no leader for %v", f.name, missed)
	}
}

// awaitLeader waits until all members that run follow the same leader, and tells how long that took
// from the moment when the fault was healed and all processes answered again.
func (tr *trial) awaitLeader(healed time.Time) time.Duration {
	tr.t.Helper()
	for _, member := range tr.group.Members {
		if !member.Alive() {
			tr.t.Fatalf("%s does not run any more:\n%.3000s", member.Client, member.Log())
		}
	}
	started := healed
	if tr.restarted {
		tr.group.AwaitAnswers()
		started = time.Now()
	}
	tr.restarted = false
	tr.group.Leader()
	missed := time.Since(started)
	tr.longest = max(tr.longest, missed)
	return missed
}

// awaitWrites waits until some more writes were acknowledged.
func (tr *trial) awaitWrites(when string) {
	tr.t.Helper()
	goal := tr.history.countWritten() + writesBetween
	for deadline := time.Now().Add(answerTimeout); tr.history.countWritten() < goal; {
		if time.Now().After(deadline) {
			tr.t.Fatalf("%s: the clients cannot write", when)
		}
		time.Sleep(pollInterval)
	}
}

// check looks at everything that has happened since the last check.
func (tr *trial) check() error {
	ctx, cancel := context.WithTimeout(tr.t.Context(), answerTimeout)
	defer cancel()
	from := tr.checker.checked + 1
	all, err := tr.checker.check(ctx, tr.connections[0], tr.history.take())
	if err != nil {
		return err
	}
	for i, follower := range tr.followers {
		if err := follower.Await(tr.checker.checked); err != nil {
			return fmt.Errorf("the watcher of member %d: %w", i, err)
		}
		if err := events.CheckSeen(all, follower.Seen(), from); err != nil {
			return fmt.Errorf("the watcher of member %d: %w", i, err)
		}
		follower.Forget(tr.checker.checked + 1)
	}
	if err := tr.group.SameHashes(ctx); err != nil {
		return err
	}
	for _, member := range tr.group.Members {
		peak, err := member.PeakBytes()
		if err != nil {
			return err
		}
		tr.peak = max(tr.peak, peak)
		if peak > memoryLimit {
			return fmt.Errorf("%s has taken %d bytes of memory", member.Client, peak)
		}
	}
	return nil
}

// start launches the members that do not run.
func (tr *trial) start() error {
	tr.restarted = true
	for _, member := range tr.group.Members {
		if !member.Alive() {
			if err := member.Launch(); err != nil {
				return err
			}
		}
	}
	return nil
}
