// Package compare knows which parts of two servers' replies may differ.
package compare

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// NotCompared is the whole list of reply fields that may differ, with the reason of each.
// Everything else has to be equal, bit for bit. The rules of canonicalize and alignTTL cover the
// places where etcd itself leaves something open: an order, a space, a clock.
var NotCompared = map[protoreflect.FullName][]protoreflect.Name{
	// Elections happen at other moments.
	"etcdserverpb.ResponseHeader": {"raft_term"},
	// Sizes are those of another storage engine; index and term count raft's own entries too.
	"etcdserverpb.StatusResponse": {
		"dbSize", "dbSizeInUse", "raftIndex", "raftTerm", "raftAppliedIndex",
	},
	// Hash covers the pages of etcd's backend, indexes of the log among them.
	"etcdserverpb.HashResponse": {"hash"},
}

// ttlTolerance is how far remaining TTLs may be apart: the two servers are asked at two moments.
const ttlTolerance = 2

// Difference says how the two replies to a request differ, or is empty.
func Difference(request, reference, subject proto.Message) string {
	reference, subject = proto.Clone(reference), proto.Clone(subject)
	for _, side := range []struct {
		name  string
		reply proto.Message
	}{{"etcd", reference}, {"the subject", subject}} {
		if err := canonicalize(request, side.reply); err != nil {
			return fmt.Sprintf("%s breaks a rule of the API: %v\n%s",
				side.name, err, prototext.Format(side.reply))
		}
		ClearNotCompared(side.reply.ProtoReflect())
	}
	alignTTL(reference, subject)
	if proto.Equal(reference, subject) {
		return ""
	}
	return fmt.Sprintf("etcd answers\n%s\nthe subject answers\n%s",
		prototext.Format(reference), prototext.Format(subject))
}

// ClearNotCompared empties the listed fields, in nested messages too.
func ClearNotCompared(message protoreflect.Message) {
	for _, name := range NotCompared[message.Descriptor().FullName()] {
		field := message.Descriptor().Fields().ByName(name)
		if field == nil {
			panic(fmt.Sprintf("no field %s in %s", name, message.Descriptor().FullName()))
		}
		message.Clear(field)
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Kind() != protoreflect.MessageKind || field.IsMap() {
			return true
		}
		if field.IsList() {
			for i := range value.List().Len() {
				ClearNotCompared(value.List().Get(i).Message())
			}
		} else {
			ClearNotCompared(value.Message())
		}
		return true
	})
}

// canonicalize puts what etcd leaves unordered into one order, and checks what is ordered.
func canonicalize(request, reply proto.Message) error {
	switch reply := reply.(type) {
	case *pb.RangeResponse:
		if request, ok := request.(*pb.RangeRequest); ok {
			return canonicalRange(request, reply)
		}
	case *pb.TxnResponse:
		if request, ok := request.(*pb.TxnRequest); ok {
			return canonicalTxn(request, reply)
		}
	case *pb.RangeStreamResponse:
		return canonicalize(request, reply.RangeResponse)
	case *pb.LeaseTimeToLiveResponse:
		slices.SortFunc(reply.Keys, bytes.Compare)
	case *pb.StatusResponse:
		// Go's printer of messages puts one space or two, by build, so that nobody relies on it.
		for i, text := range reply.Errors {
			reply.Errors[i] = strings.ReplaceAll(text, "  ", " ")
		}
	}
	return nil
}

func canonicalTxn(request *pb.TxnRequest, reply *pb.TxnResponse) error {
	branch := request.Failure
	if reply.Succeeded {
		branch = request.Success
	}
	if len(branch) != len(reply.Responses) {
		return fmt.Errorf("%d answers to %d operations", len(reply.Responses), len(branch))
	}
	for i, operation := range branch {
		var err error
		answer := reply.Responses[i]
		if inner := operation.GetRequestRange(); inner != nil && answer.GetResponseRange() != nil {
			err = canonicalRange(inner, answer.GetResponseRange())
		} else if inner := operation.GetRequestTxn(); inner != nil && answer.GetResponseTxn() != nil {
			err = canonicalTxn(inner, answer.GetResponseTxn())
		}
		if err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return nil
}

// canonicalRange handles sorting by anything but the key: etcd's sort is not stable, so the order
// of equal elements is open, and a limit may cut anywhere within the last group of equal ones.
func canonicalRange(request *pb.RangeRequest, reply *pb.RangeResponse) error {
	if request.SortTarget == pb.RangeRequest_KEY {
		return nil
	}
	compare := func(a, b *mvccpb.KeyValue) int { return compareTarget(request.SortTarget, a, b) }
	if request.SortOrder == pb.RangeRequest_DESCEND {
		ascending := compare
		compare = func(a, b *mvccpb.KeyValue) int { return ascending(b, a) }
	}
	// Without the values nobody can check an order by value.
	byHiddenValue := request.KeysOnly && request.SortTarget == pb.RangeRequest_VALUE
	if !byHiddenValue && !slices.IsSortedFunc(reply.Kvs, compare) {
		return fmt.Errorf("not sorted by %v", request.SortTarget)
	}
	if reply.More && len(reply.Kvs) > 0 {
		last := reply.Kvs[len(reply.Kvs)-1]
		for i, kv := range reply.Kvs {
			if byHiddenValue || compare(kv, last) == 0 {
				reply.Kvs[i] = &mvccpb.KeyValue{}
			}
		}
	}
	slices.SortFunc(reply.Kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return nil
}

func compareTarget(target pb.RangeRequest_SortTarget, a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return cmp.Compare(a.Version, b.Version)
	case pb.RangeRequest_CREATE:
		return cmp.Compare(a.CreateRevision, b.CreateRevision)
	case pb.RangeRequest_MOD:
		return cmp.Compare(a.ModRevision, b.ModRevision)
	case pb.RangeRequest_VALUE:
		return bytes.Compare(a.Value, b.Value)
	}
	return 0
}

// alignTTL makes remaining TTLs equal when they are as near as two clocks allow.
func alignTTL(reference, subject proto.Message) {
	a, aOk := reference.(*pb.LeaseTimeToLiveResponse)
	b, bOk := subject.(*pb.LeaseTimeToLiveResponse)
	if aOk && bOk && a.TTL > 0 && b.TTL > 0 && max(a.TTL, b.TTL)-min(a.TTL, b.TTL) <= ttlTolerance {
		b.TTL = a.TTL
	}
}
