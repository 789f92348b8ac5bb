package cluster

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"trilith.dev/tests/internal/cluster"
)

// A cluster of both programs is founded, serves through every member, and survives the loss of each
// of its members: so each program leads and follows the other.
func TestMixedClusters(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	for name, programs := range map[string][]cluster.Program{
		"two of etcd": {etcd, etcd, subject},
		"one of etcd": {etcd, subject, subject},
	} {
		t.Run(name, func(t *testing.T) {
			group := cluster.StartGroup(t, programs...)
			for i, member := range group.Members {
				put(t, member.Dial(), fmt.Sprint("key", i), fmt.Sprint("value", i))
			}
			for lost, member := range group.Members {
				member.Kill()
				group.Leader()
				for i, other := range group.Members {
					if i != lost {
						key := fmt.Sprintf("without%d/%d", lost, i)
						put(t, other.Dial(), key, "x")
					}
				}
				sameHashes(t, group)
				if err := group.Run(); err != nil {
					t.Fatal(err)
				}
				expect(t, member.Dial(), fmt.Sprintf("without%d/%d", lost, (lost+1)%3), "x")
				sameHashes(t, group)
			}
		})
	}
}

// A member of etcd's that was away for longer than the log reaches back gets the whole state from
// this program's leader, and goes on from it.
func TestEtcdCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	group := cluster.NewGroup(t, etcd, subject, subject)
	group.AddArgs("--snapshot-count=100", "--snapshot-catchup-entries=10", "--log-level=info")
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	away := group.Members[0]
	away.Kill()
	group.Leader()
	connection := group.Dial()
	grant := &pb.LeaseGrantRequest{ID: 7, TTL: 1000}
	if _, err := pb.NewLeaseClient(connection).LeaseGrant(context20s(t), grant); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		put(t, connection, fmt.Sprint("without", i), "x")
	}
	// A stop makes the state durable, after which the log is cut.
	for _, member := range group.Members[1:] {
		if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for _, member := range group.Members[1:] {
		if err := member.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	group.Leader()
	for i := range 20 {
		put(t, connection, fmt.Sprint("after", i), "x")
	}
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	expect(t, away.Dial(), "without299", "x")
	put(t, away.Dial(), "again", "x")
	leases, err := pb.NewLeaseClient(away.Dial()).LeaseLeases(context20s(t), &pb.LeaseLeasesRequest{})
	if err != nil || len(leases.Leases) != 1 || leases.Leases[0].ID != 7 {
		t.Errorf("the leases are %v (%v)", leases, err)
	}
	sameHashes(t, group)
	if !strings.Contains(away.Log(), "applied snapshot") {
		t.Errorf("the member came back without a snapshot:\n%s", away.Log())
	}
}
