package compare

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func rangeReply(more bool, kvs ...*mvccpb.KeyValue) *pb.RangeResponse {
	return &pb.RangeResponse{Kvs: kvs, More: more, Count: 9}
}

func kv(key string, version int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), Version: version}
}

func TestOnlyWhatIsListedMayDiffer(t *testing.T) {
	byVersion := &pb.RangeRequest{SortTarget: pb.RangeRequest_VERSION}
	header := func(revision int64, term uint64) *pb.PutResponse {
		return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: revision, RaftTerm: term}}
	}
	left := func(ttl int64) *pb.LeaseTimeToLiveResponse {
		return &pb.LeaseTimeToLiveResponse{TTL: ttl, GrantedTTL: 100}
	}
	for _, test := range []struct {
		name    string
		request proto.Message
		a, b    proto.Message
		same    bool
	}{
		{"raft term", nil, header(5, 2), header(5, 3), true},
		{"revision", nil, header(5, 2), header(6, 2), false},
		{"remaining TTL", nil, left(98), left(99), true},
		{"remaining TTL far apart", nil, left(90), left(99), false},
		{"expired or not", nil, left(-1), left(1), false},
		{"size of the database", nil,
			&pb.StatusResponse{DbSize: 1}, &pb.StatusResponse{DbSize: 2}, true},
		{"version of the server", nil,
			&pb.StatusResponse{Version: "3.7.3"}, &pb.StatusResponse{Version: "3.7.2"}, false},
		{"order of ties", byVersion,
			rangeReply(false, kv("a", 1), kv("b", 1)), rangeReply(false, kv("b", 1), kv("a", 1)), true},
		{"order by key", &pb.RangeRequest{},
			rangeReply(false, kv("a", 1), kv("b", 1)), rangeReply(false, kv("b", 1), kv("a", 1)), false},
		{"order by version", byVersion,
			rangeReply(false, kv("a", 1), kv("b", 2)), rangeReply(false, kv("b", 2), kv("a", 1)), false},
		{"ties that a limit cuts", byVersion,
			rangeReply(true, kv("a", 1), kv("b", 2)), rangeReply(true, kv("a", 1), kv("c", 2)), true},
		{"before the ties that a limit cuts", byVersion,
			rangeReply(true, kv("a", 1), kv("b", 2)), rangeReply(true, kv("c", 1), kv("b", 2)), false},
	} {
		if text := Difference(test.request, test.a, test.b); (text == "") != test.same {
			t.Errorf("%s: %q", test.name, text)
		}
	}
}
