package cluster

import (
	"fmt"
	"testing"

	"trilith.dev/tests/internal/cluster"
)

// A cluster of both programs is founded, serves through every member, and survives the loss of each
// of its members: so each program leads and follows the other.
func TestMixedClusters(t *testing.T) {
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
				if err := group.SameHashes(context20s(t)); err != nil {
					t.Fatal(err)
				}
				if err := group.Run(); err != nil {
					t.Fatal(err)
				}
				expect(t, member.Dial(), fmt.Sprintf("without%d/%d", lost, (lost+1)%3), "x")
				if err := group.SameHashes(context20s(t)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
