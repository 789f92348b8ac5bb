package differential

import (
	"fmt"
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// generator draws operations from a seed and from what the session knows of the servers' state.
type generator struct {
	random  *rand.Rand
	session *session
	alarms  []pb.AlarmType
	// member is the one that the next operation asks.
	member int
}

const (
	watchStreams = 4
	oddStream    = watchStreams - 1
	// More watchers than this on a stream are not opened; the oldest ids are canceled first.
	watchersPerStream = 8
	leaseIDs          = 12
	// Lease TTLs differ by more than a run takes, so that the order of expiry is the same on both
	// servers and nothing expires meanwhile.
	leaseTTLStep = 3600
)

// weighted is a table of what is drawn how often.
type weighted struct {
	weight int
	draw   func(*generator) operation
}

var operationTable = []weighted{
	{220, func(g *generator) operation { return unary(pb.KV_Put_FullMethodName, g.put()) }},
	{180, func(g *generator) operation { return unary(pb.KV_Range_FullMethodName, g.rangeRequest()) }},
	{30, func(g *generator) operation {
		return unary(pb.KV_RangeStream_FullMethodName, g.rangeStream())
	}},
	{70, func(g *generator) operation {
		return unary(pb.KV_DeleteRange_FullMethodName, g.deleteRange())
	}},
	{200, func(g *generator) operation { return unary(pb.KV_Txn_FullMethodName, g.txn(0)) }},
	{12, func(g *generator) operation { return unary(pb.KV_Compact_FullMethodName, g.compact()) }},
	{30, func(g *generator) operation {
		return unary(pb.Lease_LeaseGrant_FullMethodName, g.leaseGrant())
	}},
	{12, func(g *generator) operation {
		return unary(pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: g.leaseID()})
	}},
	{20, func(g *generator) operation {
		return unary(pb.Lease_LeaseTimeToLive_FullMethodName,
			&pb.LeaseTimeToLiveRequest{ID: g.leaseID(), Keys: g.chance(60)})
	}},
	{8, func(g *generator) operation {
		return unary(pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{})
	}},
	{12, func(g *generator) operation {
		return unary(pb.Lease_LeaseKeepAlive_FullMethodName,
			&pb.LeaseKeepAliveRequest{ID: g.leaseID()})
	}},
	{30, (*generator).watchCreate},
	{15, (*generator).watchCancel},
	{8, (*generator).watchProgress},
	{3, func(g *generator) operation { return operation{method: watchClose, stream: g.stream()} }},
	{12, func(g *generator) operation { return operation{method: watchSync} }},
	{10, func(g *generator) operation {
		return unary(pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{Revision: g.hashRevision()})
	}},
	{4, func(g *generator) operation {
		return unary(pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{})
	}},
	{2, func(g *generator) operation {
		return unary(pb.Cluster_MemberList_FullMethodName,
			&pb.MemberListRequest{Linearizable: g.chance(50)})
	}},
	{3, (*generator).alarm},
}

func unary(method string, request proto.Message) operation {
	return operation{method: method, request: request}
}

// next draws one operation, and which member is asked.
func (g *generator) next() operation {
	if count := len(g.session.members); count > 1 {
		g.member = g.random.Intn(count)
	}
	next := g.draw()
	next.member = g.member
	return next
}

// draw draws one operation. An active alarm is taken back soon, so that runs do not idle in it.
func (g *generator) draw() operation {
	if len(g.alarms) > 0 && g.chance(20) {
		kind := g.alarms[0]
		g.alarms = g.alarms[1:]
		return unary(pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{
			Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarmMember, Alarm: kind,
		})
	}
	total := 0
	for _, entry := range operationTable {
		total += entry.weight
	}
	drawn := g.random.Intn(total)
	for _, entry := range operationTable {
		if drawn < entry.weight {
			return entry.draw(g)
		}
		drawn -= entry.weight
	}
	panic("unreachable: the weights sum up to total")
}

// chance is true in percent of 100 draws.
func (g *generator) chance(percent int) bool { return g.random.Intn(100) < percent }

func (g *generator) key() []byte {
	switch g.random.Intn(40) {
	case 0:
		return nil
	case 1:
		return []byte{0}
	case 2:
		return []byte{0xff}
	case 3:
		return []byte{0xff, 0xff, 0}
	case 4:
		return []byte{'k', 0}
	case 5, 6, 7, 8:
		return []byte{byte('a' + g.random.Intn(4))}
	}
	return fmt.Appendf(nil, "k%02d", g.random.Intn(30))
}

// interval draws a key and a range end of every kind.
func (g *generator) interval() (key, end []byte) {
	key = g.key()
	switch g.random.Intn(12) {
	case 0, 1, 2, 3:
		return key, nil
	case 4:
		return key, []byte{0}
	case 5:
		return []byte{0}, []byte{0}
	case 6:
		return []byte("k"), []byte("l")
	case 7:
		return fmt.Appendf(nil, "k%d", g.random.Intn(3)), fmt.Appendf(nil, "k%d", 1+g.random.Intn(3))
	}
	return key, g.key()
}

func (g *generator) value() []byte {
	size := g.random.Intn(40)
	switch g.random.Intn(60) {
	case 0, 1:
		size = 2000 + g.random.Intn(6000)
	case 2:
		size = 100_000 + g.random.Intn(100_000)
	}
	value := make([]byte, size)
	// A small alphabet makes equal values, which compares and sorts need.
	for i := range value {
		value[i] = "xyz"[g.random.Intn(3)]
	}
	return value[:g.random.Intn(len(value)+1)]
}

// pastRevision draws a revision of every kind, most of them answerable.
func (g *generator) pastRevision() int64 {
	current, compacted := g.session.revision, g.session.compacted
	switch g.random.Intn(20) {
	case 0:
		return current
	case 1:
		return current + 1 + g.random.Int63n(5)
	case 2:
		return compacted
	case 3:
		return compacted - 1
	case 4:
		return -1
	}
	return compacted + g.random.Int63n(current-compacted+1)
}

// hashRevision draws a revision for HashKV. A compaction keeps the hash it has computed, for later
// questions about its revision; whether it has done so yet is a race unless it was waited for.
func (g *generator) hashRevision() int64 {
	hashed := g.session.hashed
	if len(hashed) > 0 && g.chance(30) {
		// Ten are kept; which one is forgotten first is not looked at.
		recent := hashed[max(0, len(hashed)-5):]
		drawn := recent[g.random.Intn(len(recent))]
		g.member = drawn.member
		return drawn.revision
	}
	revision := g.pastRevision()
	if g.chance(30) || revision == g.session.compacted {
		return 0
	}
	return revision
}

func (g *generator) leaseID() int64 { return 1000 + g.random.Int63n(leaseIDs) }

func (g *generator) leaseGrant() *pb.LeaseGrantRequest {
	ttl := leaseTTLStep * (1 + g.random.Int63n(20))
	if g.chance(3) {
		ttl = 9_000_000_001
	}
	return &pb.LeaseGrantRequest{ID: g.leaseID(), TTL: ttl}
}

// alarmMember is the member that alarms are raised for; any number is accepted.
const alarmMember = 77

func (g *generator) alarm() operation {
	request := &pb.AlarmRequest{MemberID: alarmMember}
	switch g.random.Intn(4) {
	case 0:
		request.Action = pb.AlarmRequest_ACTIVATE
		request.Alarm = pb.AlarmType(1 + g.random.Intn(2))
		g.alarms = append(g.alarms, request.Alarm)
	case 1:
		request.Action = pb.AlarmRequest_ACTIVATE
	case 2:
		request.MemberID = g.random.Uint64() & 1 * alarmMember
	case 3:
		request.Alarm = pb.AlarmType(g.random.Intn(3))
	}
	return unary(pb.Maintenance_Alarm_FullMethodName, request)
}

func (g *generator) stream() int { return g.random.Intn(watchStreams) }

func (g *generator) watchCreate() operation {
	number := g.stream()
	pair := g.session.streams[number]
	if pair != nil && len(pair.watchers) >= watchersPerStream {
		return g.watchCancel()
	}
	key, end := g.interval()
	request := &pb.WatchCreateRequest{
		Key: key, RangeEnd: end, PrevKv: g.chance(50),
		ProgressNotify: g.chance(20), Fragment: g.chance(30),
	}
	request.StartRevision = g.startRevision(number)
	for range g.random.Intn(3) * g.random.Intn(2) {
		request.Filters = append(request.Filters,
			pb.WatchCreateRequest_FilterType(g.random.Intn(2)))
	}
	if g.chance(25) {
		request.WatchId = 1 + g.random.Int63n(12)
	}
	return operation{method: watchCreate, request: request, stream: number}
}

// startRevision draws where a watcher starts. One stream takes those that cannot become synced (in
// the future, compacted) and none that lag, so that every other stream can be asked whether it is
// synced: a compaction cancels watchers that lag, and when they catch up is a race in etcd too.
func (g *generator) startRevision(stream int) int64 {
	current, compacted := g.session.revision, g.session.compacted
	if g.chance(30) {
		return 0
	}
	if stream != oddStream {
		return max(1, compacted) + g.random.Int63n(current-max(1, compacted)+1)
	}
	switch g.random.Intn(4) {
	case 0:
		return -1
	case 1:
		return max(1, compacted-g.random.Int63n(5)-1) * (g.random.Int63() & 1)
	}
	return current + 1 + g.random.Int63n(20)
}

func (g *generator) watchCancel() operation {
	number := g.stream()
	id := g.random.Int63n(14) - 1
	if pair := g.session.streams[number]; pair != nil && g.chance(85) {
		// The smallest id: the order of a map must not decide.
		for candidate := range int64(200) {
			if pair.watchers[candidate] != nil {
				id = candidate
				break
			}
		}
	}
	return operation{
		method: watchCancel, request: &pb.WatchCancelRequest{WatchId: id}, stream: number,
	}
}

func (g *generator) watchProgress() operation {
	return operation{method: watchProgress, stream: g.stream()}
}
