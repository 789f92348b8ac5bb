package differential

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/compare"
)

// TestLargeRevisionIsFragmentedTheSame reads one revision that is larger than a message should be,
// with and without fragments, and compares message by message where the cuts are. (How many
// revisions of history share a message is each server's own matter.)
func TestLargeRevisionIsFragmentedTheSame(t *testing.T) {
	s := startSession(t)
	defer s.close()
	only := s.members[0]
	const puts = 7
	for i := range puts {
		put := &pb.PutRequest{
			Key:   fmt.Appendf(nil, "large%d", i),
			Value: bytes.Repeat([]byte{byte('a' + i)}, 200_000+i*150_000),
		}
		if err := s.do(unary(pb.KV_Put_FullMethodName, put)); err != nil {
			t.Fatal(err)
		}
	}
	remove := &pb.DeleteRangeRequest{Key: []byte("large"), RangeEnd: []byte("m")}
	if err := s.do(unary(pb.KV_DeleteRange_FullMethodName, remove)); err != nil {
		t.Fatal(err)
	}
	for _, fragment := range []bool{true, false} {
		request := &pb.WatchCreateRequest{
			Key: []byte("large"), RangeEnd: []byte("m"), StartRevision: 1, Fragment: fragment,
			PrevKv: true, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT},
		}
		reference, subject := readAll(t, only.reference, request, puts),
			readAll(t, only.subject, request, puts)
		if len(reference) != len(subject) {
			t.Errorf("fragment %v: etcd sends %d messages, the subject %d",
				fragment, len(reference), len(subject))
			continue
		}
		for i := range reference {
			if text := compare.Difference(nil, reference[i], subject[i]); text != "" {
				t.Errorf("fragment %v, message %d: %.3000s", fragment, i, text)
			}
		}
	}
}

// readAll opens a watcher and reads messages until it has so many events.
func readAll(t *testing.T, connection *grpc.ClientConn, request *pb.WatchCreateRequest, events int,
) []*pb.WatchResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: proto.Clone(request).(*pb.WatchCreateRequest),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var responses []*pb.WatchResponse
	for events > 0 {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		events -= len(response.Events)
		responses = append(responses, response)
	}
	return responses
}
