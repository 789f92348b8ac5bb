package cluster

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// Clients that want a leader are told when there is none, and their streams end; others wait on.
func TestClientsThatWantALeaderAreToldThatThereIsNone(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		follower := followerOf(group, group.Leader())
		connection := follower.Dial()
		ctx := context20s(t)
		wanting := metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
		note := func(what string, err error) {
			told[program.Name] = append(told[program.Name],
				fmt.Sprintf("%s: %s %s", what, status.Code(err), status.Convert(err).Message()))
		}
		indifferent, err := pb.NewWatchClient(connection).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		watch, err := pb.NewWatchClient(connection).Watch(wanting)
		if err != nil {
			t.Fatal(err)
		}
		leases, err := pb.NewLeaseClient(connection).LeaseKeepAlive(wanting)
		if err != nil {
			t.Fatal(err)
		}
		create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("key")},
		}}
		for _, stream := range []pb.Watch_WatchClient{watch, indifferent} {
			if err := stream.Send(create); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		for _, member := range group.Members {
			if member != follower {
				member.Kill()
			}
		}
		_, err = watch.Recv()
		note("watch", err)
		_, err = leases.Recv()
		note("keep-alive", err)
		get := &pb.RangeRequest{Key: []byte("key"), Serializable: true}
		_, err = pb.NewKVClient(connection).Range(wanting, get)
		note("get", err)
		_, err = pb.NewKVClient(connection).Range(ctx, get)
		note("get without a wish", err)
		late, err := pb.NewWatchClient(connection).Watch(wanting)
		if err == nil {
			_, err = late.Recv()
		}
		note("a watch that comes late", err)
		// It still answers.
		create.GetCreateRequest().Key = []byte("other")
		if err := indifferent.Send(create); err != nil {
			t.Error(err)
		}
		_, err = indifferent.Recv()
		note("the watch without a wish", err)
	}
	compare(t, told)
}
