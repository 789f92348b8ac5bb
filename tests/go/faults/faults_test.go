package faults

import (
	"math/rand"
	"testing"
	"time"

	"trilith.dev/tests/internal/cluster"
)

// faults are all of them, each of which strikes at least once.
var faults = []fault{
	killing("kill -9 of any member", one(anyMember)),
	killing("kill -9 of the leader", one(theLeader)),
	killing("kill -9 of all members", all),
	pausing("SIGSTOP of the leader", one(theLeader)),
	pausing("SIGSTOP of a follower", one(aFollower)),
	pausing("SIGSTOP of all members", all),
	cutting("the leader is cut off", theLeader, toOrFrom),
	cutting("a follower is cut off", aFollower, toOrFrom),
	cutting("nobody hears the leader", theLeader, fromOne),
	cutting("the leader hears nobody", theLeader, toOne),
	cutting("nobody hears a follower", aFollower, fromOne),
	cutting("a follower hears nobody", aFollower, toOne),
	cutting("the leader and a follower are apart", theLeader, toOrFromNext),
	cutting("all are apart", theLeader, everything),
	slowAndLossy,
	lossy,
	leftBehind,
	wiped,
	failingSync,
	garbage,
	fullDisk,
}

const (
	// In the suite elections are quick, so that they fit into the second or two of a fault. In the
	// long form it is the defaults that are tried, by up to fifteen seconds, for half an hour.
	shortElection, soakElection = time.Second / 4, time.Second
	shortest                    = 2 * time.Second / 5
	shortLongest, soakLongest   = time.Second, 15 * time.Second
	soakTime                    = 30 * time.Minute
	shortMixedFaults            = 4
)

// Whatever happens to members and to the network between them: acknowledged writes stay, no read is
// stale, watchers miss nothing, all members have the same data, a leader is back soon, and memory
// is bounded.
func TestClientsAreToldNoLiesWhateverFails(t *testing.T) {
	try(t, cluster.Three(cluster.Subject(t)), len(faults))
}

// The same where one of the members is etcd's own: what it applies and hands over has to be the same.
// In the suite a few of the faults have to do.
func TestClientsAreToldNoLiesByAMixedCluster(t *testing.T) {
	subject := cluster.Subject(t)
	try(t, []cluster.Program{cluster.Reference(t), subject, subject}, shortMixedFaults)
}

// try lets faults strike a cluster: so many in the suite, all of them again and again in the long
// form.
func try(t *testing.T, programs []cluster.Program, short int) {
	election, longest, until := shortElection, shortLongest, time.Now()
	if cluster.Soak() {
		short, election, longest = len(faults), soakElection, soakLongest
		until = until.Add(time.Duration(cluster.EnvInt(t, "FAULTS_SECONDS",
			int(soakTime/time.Second))) * time.Second)
	}
	tr := newTrial(t, programs, election, mountSmallDisk)
	for first := true; first || time.Now().Before(until); first = false {
		for _, number := range tr.random.Perm(len(faults))[:short] {
			tr.run(faults[number], duration(tr.random, longest))
		}
	}
}

func duration(random *rand.Rand, longest time.Duration) time.Duration {
	return shortest + time.Duration(random.Int63n(int64(longest-shortest)))
}
