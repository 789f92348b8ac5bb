package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"trilith.dev/tests/internal/cluster"
)

// Out of the data of one member that is left becomes a cluster of that member alone: it keeps what
// was committed, gives up the rest, and takes new members.
func TestANewClusterIsForcedOutOfOneMember(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	want := forceNewCluster(t, etcd, etcd)
	if difference := gocmp.Diff(want, forceNewCluster(t, subject, subject)); difference != "" {
		t.Errorf("it is not as with etcd:\n%s", difference)
	}
	if difference := gocmp.Diff(want, forceNewCluster(t, etcd, subject)); difference != "" {
		t.Errorf("out of etcd's data it is not as with etcd:\n%s", difference)
	}
}

// forceNewCluster notes what becomes of a cluster of one program that is forced by another.
func forceNewCluster(t *testing.T, before, after cluster.Program) (told []string) {
	group := cluster.StartGroup(t, cluster.Three(before)...)
	left := group.Members[0]
	lead(t, group, left)
	for i := range 5 {
		put(t, group.Dial(), fmt.Sprint("key", i), "value")
	}
	for _, member := range group.Members[1:] {
		member.Kill()
	}
	// It gets into the log of the leader, and nobody else hears of it.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := pb.NewKVClient(left.Dial()).Put(ctx, &pb.PutRequest{Key: []byte("lost"), Value: []byte("x")})
	if err == nil {
		t.Fatal("one of three has committed a write")
	}
	left.Kill()

	left.Program = after
	left.AddArgs("--force-new-cluster", "--log-level=info")
	if err := left.Run(); err != nil {
		t.Fatal(err)
	}
	connection := left.Dial()
	state := read(t, left).Header
	told = append(told, fmt.Sprintf("cluster %v, revision %d", state.ClusterId != 0, state.Revision))
	list, err := pb.NewClusterClient(connection).MemberList(context20s(t), &pb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, member := range list.Members {
		told = append(told, fmt.Sprintf("%s, its own: %v, learner: %v", member.Name,
			member.ID == state.MemberId, member.IsLearner))
	}
	for _, key := range []string{"key0", "key4", "lost"} {
		got, err := pb.NewKVClient(connection).Range(context20s(t), &pb.RangeRequest{Key: []byte(key)})
		told = append(told, fmt.Sprintf("%s: %d, %v", key, got.GetCount(), err))
	}
	for _, text := range []string{
		"forcing restart member", "discarding uncommitted WAL entries",
	} {
		told = append(told, fmt.Sprintf("%q is logged: %v", text, strings.Contains(left.Log(), text)))
	}

	// It grows again, and the flag may be left on: it does nothing to one that is alone.
	put(t, connection, "after", "x")
	if err := left.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := left.Run(); err != nil {
		t.Fatal(err)
	}
	expect(t, connection, "after", "x")
	expect(t, connection, "key4", "value")
	return told
}
