package cluster

import (
	"fmt"
	"testing"

	"trilith.dev/tests/internal/cluster"
)

// The members of an etcd cluster become ours one by one, each on the data directory that etcd has
// left, while the other two go on; at each step all have the same data, and the member that starts
// finds that itself.
func TestAnEtcdClusterIsTakenOverMemberByMember(t *testing.T) {
	t.Parallel()
	group := cluster.NewGroup(t, cluster.Three(cluster.Reference(t))...)
	group.AddArgs(initially...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	group.Leader()
	for number := range 150 {
		put(t, group.Members[number%3].Dial(), fmt.Sprint("before ", number), "value")
	}
	for at, member := range group.Members {
		if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
		others := group.Members[(at+1)%3]
		for number := range 50 {
			put(t, others.Dial(), fmt.Sprint("without ", at, " ", number), "value")
		}
		member.Program = cluster.Subject(t)
		mark := len(member.Log())
		if err := member.Run(); err != nil {
			t.Fatal(err)
		}
		logged(t, member, mark, 1, "initial corruption checking passed; no corruption")
		put(t, member.Dial(), fmt.Sprint("through ", at), "value")
		expect(t, others.Dial(), fmt.Sprint("through ", at), "value")
		expect(t, member.Dial(), "before 7", "value")
		if err := group.SameHashes(context20s(t)); err != nil {
			t.Fatalf("after member %d: %v", at, err)
		}
	}
	group.Leader()
	put(t, group.Members[0].Dial(), "all", "ours")
}
