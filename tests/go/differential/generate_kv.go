package differential

import (
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (g *generator) put() *pb.PutRequest {
	request := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.chance(30)}
	if g.chance(25) {
		request.Lease = g.leaseID()
	}
	if g.chance(6) {
		request.IgnoreValue = true
		if g.chance(80) {
			request.Value = nil
		}
	}
	if g.chance(6) {
		request.IgnoreLease = true
		if g.chance(80) {
			request.Lease = 0
		}
	}
	return request
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	key, end := g.interval()
	request := &pb.RangeRequest{
		Key: key, RangeEnd: end, Serializable: g.chance(30),
		KeysOnly: g.chance(15), CountOnly: g.chance(10),
	}
	if g.chance(40) {
		request.Revision = g.pastRevision()
	}
	if g.chance(40) {
		request.Limit = g.random.Int63n(12) - 1
	}
	if g.chance(35) {
		request.SortOrder = pb.RangeRequest_SortOrder(g.random.Intn(3))
		request.SortTarget = pb.RangeRequest_SortTarget(g.random.Intn(5))
	}
	if g.chance(1) {
		request.SortOrder = 7
	}
	if g.chance(1) {
		request.SortTarget = 9
	}
	for _, bound := range []*int64{
		&request.MinModRevision, &request.MaxModRevision,
		&request.MinCreateRevision, &request.MaxCreateRevision,
	} {
		if g.chance(5) {
			*bound = g.pastRevision()
		}
	}
	return request
}

// rangeStream draws mostly what streams support: no sorting, no filters.
func (g *generator) rangeStream() *pb.RangeRequest {
	request := g.rangeRequest()
	// With a negative limit etcd sends everything in one message, however large; Trilith in chunks.
	request.Limit = max(0, request.Limit)
	if g.chance(10) && request.SortOrder != pb.RangeRequest_NONE {
		return request
	}
	// A sort target without an order passes etcd's check. Each chunk is then sorted by itself, and
	// the next starts after its last key: with ties, count and contents are up to Go's sort.
	if g.chance(50) {
		request.Key, request.RangeEnd = []byte{0}, []byte{0}
	}
	request.SortOrder, request.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
	request.MinModRevision, request.MaxModRevision = 0, 0
	request.MinCreateRevision, request.MaxCreateRevision = 0, 0
	return request
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	key, end := g.interval()
	// Whole stores are emptied rarely, so that there is something to read.
	if len(end) > 0 && g.chance(70) {
		end = nil
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.chance(40)}
}

func (g *generator) compact() *pb.CompactionRequest {
	current, compacted := g.session.revision, g.session.compacted
	revision := g.pastRevision()
	if g.chance(50) {
		// A small step leaves history to read and to watch from.
		revision = compacted + 1 + g.random.Int63n(max(1, (current-compacted)/3))
	}
	return &pb.CompactionRequest{Revision: revision, Physical: g.chance(70)}
}

const (
	txnDepthMax = 3
	// One level with more operations than the server takes.
	tooManyOperations = 129
)

func (g *generator) txn(depth int) *pb.TxnRequest {
	request := &pb.TxnRequest{}
	for range g.random.Intn(4) {
		request.Compare = append(request.Compare, g.compare())
	}
	// The two must not meet in one txn: etcd 3.7.3 does not see that a from-key delete overlaps a
	// put, and loses the put at the next compaction. Trilith refuses it.
	mayPut := g.chance(75)
	request.Success = g.branch(depth, mayPut)
	request.Failure = g.branch(depth, mayPut)
	if depth == 0 && !mayPut {
		withoutPuts(request)
	} else if depth == 0 {
		withoutFromKeyDeletes(request)
	}
	return request
}

func (g *generator) branch(depth int, mayPut bool) []*pb.RequestOp {
	var operations []*pb.RequestOp
	count := g.random.Intn(5)
	if g.random.Intn(400) == 0 {
		count = tooManyOperations
	}
	for range count {
		operations = append(operations, g.requestOp(depth, mayPut))
	}
	return operations
}

func (g *generator) requestOp(depth int, mayPut bool) *pb.RequestOp {
	switch drawn := g.random.Intn(100); {
	case drawn < 45 && mayPut:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case drawn < 65:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}}
	case drawn < 80:
		return &pb.RequestOp{
			Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRange()},
		}
	case drawn < 99 && depth < txnDepthMax:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth + 1)}}
	case drawn == 99 && g.chance(20):
		return &pb.RequestOp{}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}}
}

func (g *generator) compare() *pb.Compare {
	compare := &pb.Compare{
		Result: pb.Compare_CompareResult(g.random.Intn(4)),
		Target: pb.Compare_CompareTarget(g.random.Intn(5)),
		Key:    g.key(),
	}
	if g.chance(20) {
		compare.Key, compare.RangeEnd = g.interval()
	}
	set := compare.Target
	if g.chance(2) {
		// The value of another target than the one that is named.
		set = pb.Compare_CompareTarget(g.random.Intn(5))
	}
	switch set {
	case pb.Compare_VERSION:
		compare.TargetUnion = &pb.Compare_Version{Version: g.random.Int63n(4)}
	case pb.Compare_CREATE:
		compare.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.orZero()}
	case pb.Compare_MOD:
		compare.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.orZero()}
	case pb.Compare_VALUE:
		compare.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		compare.TargetUnion = &pb.Compare_Lease{Lease: g.leaseID() * (g.random.Int63() & 1)}
	}
	if g.chance(1) {
		compare.Result = 6
	}
	if g.chance(1) {
		compare.Target = 8
	}
	return compare
}

func (g *generator) orZero() int64 {
	if g.chance(40) {
		return 0
	}
	return g.pastRevision()
}

// eachOperation visits the operations of a txn and of those nested in it.
func eachOperation(request *pb.TxnRequest, visit func(*pb.RequestOp)) {
	for _, branch := range [][]*pb.RequestOp{request.Success, request.Failure} {
		for _, operation := range branch {
			visit(operation)
			if inner := operation.GetRequestTxn(); inner != nil {
				eachOperation(inner, visit)
			}
		}
	}
}

func withoutPuts(request *pb.TxnRequest) {
	eachOperation(request, func(operation *pb.RequestOp) {
		if put := operation.GetRequestPut(); put != nil {
			operation.Request = &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: &pb.DeleteRangeRequest{Key: put.Key, PrevKv: put.PrevKv},
			}
		}
	})
}

func withoutFromKeyDeletes(request *pb.TxnRequest) {
	eachOperation(request, func(operation *pb.RequestOp) {
		remove := operation.GetRequestDeleteRange()
		if remove != nil && len(remove.RangeEnd) == 1 && remove.RangeEnd[0] == 0 {
			remove.RangeEnd = nil
		}
	})
}

func newRandom(seed int64) *rand.Rand { return rand.New(rand.NewSource(seed)) }
