package differential

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/cluster"
)

// otherText lists the errors whose code is compared and whose text is not: it is written by the
// gRPC library of the server, not by etcd, and no client reads it.
var otherText = map[string]bool{
	"broken protobuf": true,
	"unknown method":  true,
	"unknown service": true,
}

const (
	mebibyte = 1 << 20
	// nestedDepth is how many txns within another Trilith takes; etcd takes as many as there may be
	// operations (docs/compatibility.md).
	nestedDepth = 40 - 1
)

// invalidCall is a request that has to be refused, or is at the edge of it.
type invalidCall struct {
	name   string
	method string
	// raw goes over the wire as it is.
	raw []byte
	// request is used when raw is nil.
	request proto.Message
	header  metadata.MD
}

func invalidCalls() []invalidCall {
	calls := []invalidCall{
		{name: "broken protobuf", method: pb.KV_Put_FullMethodName, raw: []byte{0x0a, 0xff}},
		{name: "broken protobuf", method: pb.KV_Range_FullMethodName,
			raw: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{name: "broken protobuf", method: pb.KV_Txn_FullMethodName, raw: []byte{0x12, 5, 0x12, 9, 1}},
		{name: "unknown fields", method: pb.KV_Range_FullMethodName,
			raw: append(marshal(&pb.RangeRequest{Key: []byte("a")}), 0xf8, 0x7f, 1)},
		{name: "empty message", method: pb.KV_Put_FullMethodName, raw: []byte{}},
		{name: "unknown method", method: "/etcdserverpb.KV/Nothing", raw: []byte{}},
		{name: "unknown service", method: "/etcdserverpb.Nothing/Range", raw: []byte{}},
		{name: "client version", method: pb.KV_Range_FullMethodName,
			request: &pb.RangeRequest{Key: []byte("a")},
			header:  metadata.Pairs("client-api-version", "3.7.0")},
		{name: "require leader", method: pb.KV_Range_FullMethodName,
			request: &pb.RangeRequest{Key: []byte("a")}, header: metadata.Pairs("hasleader", "true")},
	}
	for _, size := range []int{mebibyte, 1572864 - 200, 1572864, 1572864 + mebibyte/4,
		1572864 + mebibyte/2 - 4, 1572864 + mebibyte/2 + 1, 3 * mebibyte} {
		calls = append(calls, invalidCall{
			name: fmt.Sprintf("put of %d bytes", size), method: pb.KV_Put_FullMethodName,
			request: &pb.PutRequest{Key: []byte("large"), Value: bytes.Repeat([]byte{'v'}, size)},
		})
	}
	add := func(name, method string, request proto.Message) {
		calls = append(calls, invalidCall{name: name, method: method, request: request})
	}
	for _, count := range []int{128, 129} {
		add(fmt.Sprintf("%d operations", count), pb.KV_Txn_FullMethodName,
			&pb.TxnRequest{Success: manyPuts(count)})
		add(fmt.Sprintf("%d compares", count), pb.KV_Txn_FullMethodName,
			&pb.TxnRequest{Compare: manyCompares(count)})
	}
	add("nested beyond the budget", pb.KV_Txn_FullMethodName, &pb.TxnRequest{
		Success: append(manyPuts(100), txnOperation(&pb.TxnRequest{Success: manyPuts(50)})),
	})
	add("nested", pb.KV_Txn_FullMethodName, nested(nestedDepth))
	add("duplicate key", pb.KV_Txn_FullMethodName,
		&pb.TxnRequest{Success: append(manyPuts(2), manyPuts(1)...)})
	add("operation without a member", pb.KV_Txn_FullMethodName,
		&pb.TxnRequest{Success: []*pb.RequestOp{{}}})
	add("compare without a key", pb.KV_Txn_FullMethodName,
		&pb.TxnRequest{Compare: []*pb.Compare{{}}})
	add("compare without a value", pb.KV_Txn_FullMethodName,
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VALUE}}})
	for _, request := range []proto.Message{
		&pb.LeaseGrantRequest{ID: 5, TTL: 9_000_000_001}, &pb.LeaseGrantRequest{ID: 6, TTL: -1},
		&pb.LeaseGrantRequest{ID: -7, TTL: 100}, &pb.LeaseGrantRequest{ID: 8},
	} {
		add(fmt.Sprint("grant ", request), pb.Lease_LeaseGrant_FullMethodName, request)
	}
	for _, id := range []int64{0, -1, 404} {
		add(fmt.Sprint("revoke ", id), pb.Lease_LeaseRevoke_FullMethodName,
			&pb.LeaseRevokeRequest{ID: id})
		add(fmt.Sprint("time to live ", id), pb.Lease_LeaseTimeToLive_FullMethodName,
			&pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		add(fmt.Sprint("keep alive ", id), pb.Lease_LeaseKeepAlive_FullMethodName,
			&pb.LeaseKeepAliveRequest{ID: id})
	}
	return append(calls, invalidMaintenance()...)
}

func invalidMaintenance() []invalidCall {
	var calls []invalidCall
	add := func(method string, requests ...proto.Message) {
		for _, request := range requests {
			calls = append(calls, invalidCall{
				name: fmt.Sprintf("%s %v", method, request), method: method, request: request,
			})
		}
	}
	add(pb.KV_Compact_FullMethodName,
		&pb.CompactionRequest{Revision: -1}, &pb.CompactionRequest{},
		&pb.CompactionRequest{Revision: 1 << 40},
		&pb.CompactionRequest{Revision: 1 << 40, Physical: true})
	add(pb.Maintenance_HashKV_FullMethodName,
		&pb.HashKVRequest{Revision: -1}, &pb.HashKVRequest{Revision: 1 << 40})
	add(pb.Maintenance_Alarm_FullMethodName,
		&pb.AlarmRequest{Alarm: 9},
		&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_CORRUPT},
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: 9, MemberID: 3},
		&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: 9, MemberID: 3})
	add(pb.Maintenance_MoveLeader_FullMethodName,
		&pb.MoveLeaderRequest{}, &pb.MoveLeaderRequest{TargetID: 1})
	add(pb.Maintenance_Downgrade_FullMethodName,
		&pb.DowngradeRequest{Version: "3.6"}, &pb.DowngradeRequest{Version: "3.6.0"},
		&pb.DowngradeRequest{Version: "3.5.0"}, &pb.DowngradeRequest{Version: "3.7.0"},
		&pb.DowngradeRequest{Version: ""}, &pb.DowngradeRequest{Version: "new"},
		&pb.DowngradeRequest{Action: 9},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: "3.5.0"},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
	add(pb.Cluster_MemberAdd_FullMethodName,
		&pb.MemberAddRequest{}, &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}},
		&pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:2380"}})
	add(pb.Cluster_MemberRemove_FullMethodName, &pb.MemberRemoveRequest{ID: 1})
	add(pb.Cluster_MemberPromote_FullMethodName, &pb.MemberPromoteRequest{ID: 1})
	add(pb.Cluster_MemberUpdate_FullMethodName,
		&pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{"http://127.0.0.1:9"}},
		&pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{"nonsense"}})
	return calls
}

func TestInvalidRequestsGetTheSameRefusals(t *testing.T) {
	s := startSession(t)
	defer s.close()
	only := s.members[0]
	for _, invalid := range invalidCalls() {
		t.Run(invalid.name, func(t *testing.T) {
			reference, subject := invalid.send(only.reference), invalid.send(only.subject)
			same := reference.status.Code() == subject.status.Code() &&
				(otherText[invalid.name] || reference.status.Message() == subject.status.Message())
			if !same {
				t.Errorf("%s\netcd: %v %q\nsubject: %v %q", invalid.method,
					reference.status.Code(), reference.status.Message(),
					subject.status.Code(), subject.status.Message())
			} else if len(reference.replies) > 0 {
				o := operation{method: invalid.method, request: invalid.request}
				if text := compareOutcomes(o, reference, subject); text != "" {
					t.Error(text)
				}
			}
			t.Logf("%v %q", reference.status.Code(), reference.status.Message())
		})
		// The server goes on after each of them.
		alive := unary(pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: []byte("alive")})
		if _, err := s.both(alive); err != nil {
			t.Fatalf("after %s: %v", invalid.name, err)
		}
	}
}

func (c invalidCall) send(connection *grpc.ClientConn) outcome {
	if c.raw == nil {
		if len(c.header) == 0 {
			return call(connection, c.method, c.request)
		}
		c.raw = marshal(c.request)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, c.header)
	var reply rawMessage
	raw := rawMessage(c.raw)
	err := connection.Invoke(ctx, c.method, &raw, &reply, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return outcome{status: status.Convert(err)}
	}
	descriptor, err := methodDescriptor(c.method)
	if err != nil {
		return outcome{status: status.New(codes.Unknown, err.Error())}
	}
	decoded := newReply(descriptor)
	if err := proto.Unmarshal(reply, decoded); err != nil {
		return outcome{status: status.New(codes.DataLoss, err.Error())}
	}
	return outcome{replies: []proto.Message{decoded}, status: status.New(codes.OK, "")}
}

// rawCodec puts bytes on the wire that no message would encode to.
type rawCodec struct{}

type rawMessage []byte

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Marshal(value any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*value.(*rawMessage))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, value any) error {
	*value.(*rawMessage) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }

func marshal(message proto.Message) []byte {
	encoded, err := proto.Marshal(message)
	if err != nil {
		panic(err)
	}
	return encoded
}

func manyPuts(count int) []*pb.RequestOp {
	var operations []*pb.RequestOp
	for i := range count {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "many%d", i)}
		operations = append(operations, &pb.RequestOp{
			Request: &pb.RequestOp_RequestPut{RequestPut: put},
		})
	}
	return operations
}

func manyCompares(count int) []*pb.Compare {
	var compares []*pb.Compare
	for range count {
		compares = append(compares, &pb.Compare{Key: []byte("a")})
	}
	return compares
}

func txnOperation(txn *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}
}

func nested(depth int) *pb.TxnRequest {
	txn := &pb.TxnRequest{Success: manyPuts(1)}
	for range depth {
		txn = &pb.TxnRequest{Success: []*pb.RequestOp{txnOperation(txn)}}
	}
	return txn
}

// etcd 3.7.3 panics on these, so there is nothing to compare; the server under test has to go on.
func TestWhatStopsEtcdDoesNotStopTheSubject(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd 3.7.3 does not survive this")
	}
	connection := cluster.Start(t, cluster.Subject(t), cluster.Options{}).Dial()
	calls := []operation{
		unary(pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: 9}),
		// Not a panic of etcd, but work without a bound: each level is decoded on the stack.
		unary(pb.KV_Txn_FullMethodName, nested(20_000)),
	}
	for _, o := range calls {
		refusal := call(connection, o.method, o.request)
		if code := refusal.status.Code(); code == codes.OK || code == codes.Unavailable {
			t.Errorf("%v: %v", o, refusal)
		}
		alive := call(connection, pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: []byte("alive")})
		if alive.status.Code() != codes.OK {
			t.Fatalf("after %v: %v", o, alive)
		}
	}
}
