package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
)

var (
	periodically  = []string{"--log-level=info", "--corrupt-check-time=300ms"}
	byCompactions = []string{
		"--log-level=info", "--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=300ms",
	}
	initially = []string{"--log-level=info", "--feature-gates=InitialCorruptCheck=true"}
)

// What the checks of either program say when data differ.
var differences = []string{
	"found hash mismatch",
	"from follower must be less than or equal to leader's",
	"same compact revision then hashes must match",
	"Detected compaction hash mismatch",
	"found different hash values from remote peer",
	"found data inconsistency with peers",
}

func alarms(t *testing.T, connection *grpc.ClientConn) []*pb.AlarmMember {
	t.Helper()
	got, err := pb.NewMaintenanceClient(connection).Alarm(context20s(t),
		&pb.AlarmRequest{Action: pb.AlarmRequest_GET}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return got.Alarms
}

// work writes what members hash, in every form, and compacts, until it is told to stop.
func work(ctx context.Context, connection *grpc.ClientConn, random *rand.Rand) error {
	kv, leases := pb.NewKVClient(connection), pb.NewLeaseClient(connection)
	firstLease := random.Int64N(1 << 60)
	for i := int64(0); ctx.Err() == nil; i++ {
		key, other := fmt.Append(nil, "key", random.IntN(40)), fmt.Append(nil, "other", random.IntN(40))
		lease := firstLease + i/50 + 1
		var err error
		current := &pb.ResponseHeader{}
		switch random.IntN(8) {
		case 0:
			var deleted *pb.DeleteRangeResponse
			deleted, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("key2")})
			current = deleted.GetHeader()
		case 1:
			// Several changes of one revision.
			_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestDeleteRange{
					RequestDeleteRange: &pb.DeleteRangeRequest{Key: key},
				}},
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: other}}},
			}})
		default:
			put := &pb.PutRequest{Key: key, Value: fmt.Append(nil, i)}
			if i%50 > 0 {
				put.Lease = lease
			}
			var answer *pb.PutResponse
			answer, err = kv.Put(ctx, put)
			current = answer.GetHeader()
		}
		switch {
		case err != nil:
		case i%50 == 0:
			_, err = leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: lease, TTL: 1000})
		case i%50 == 49:
			// Which deletes the keys that are on it.
			_, err = leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease})
		case i%20 == 19 && current.GetRevision() > 20:
			// Also at a deletion, and at the current revision.
			target := current.Revision - random.Int64N(4)
			_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: target})
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// Each program leads the other: it compares all members, periodically and by compactions, while
// they are written to and compacted, and finds no difference. Nor does a member that starts again.
func TestChecksOfMixedClustersCompareAllAndStaySilent(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	group := cluster.NewGroup(t, etcd, subject, subject)
	group.AddArgs("--log-level=info", "--corrupt-check-time=300ms", "--compact-hash-check-time=300ms",
		"--feature-gates=CompactHashCheck=true,InitialCorruptCheck=true")
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	times := 3
	if cluster.Soak() {
		times = 100
	}
	for _, leader := range group.Members[:2] {
		lead(t, group, leader)
		mark := len(leader.Log())
		ctx, stop := context.WithCancel(t.Context())
		working, seed := make(chan error, 1), rand.Uint64()
		t.Logf("seed %d", seed)
		go func() { working <- work(ctx, leader.Dial(), rand.New(rand.NewPCG(seed, 0))) }()
		logged(t, leader, mark, times, "finished peer corruption check", `"number-of-peers-checked":2`)
		logged(t, leader, mark, times, "successfully checked hash on whole cluster",
			`"number-of-peers-checked":2`)
		stop()
		if err := <-working; err != nil {
			t.Error(err)
		}
	}
	sameFields(t, group.Members[0].Log(), group.Members[1].Log(),
		"enabled corruption checking", "finished peer corruption check", "starting compact hash check",
		"finished compaction hash check", "successfully checked hash on whole cluster", "storing new hash")
	for _, member := range group.Members[:2] {
		if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
		mark := len(member.Log())
		if err := member.Run(); err != nil {
			t.Fatal(err)
		}
		logged(t, member, mark, 1, "initial corruption checking passed; no corruption")
	}
	for _, member := range group.Members {
		for _, difference := range differences {
			if strings.Contains(member.Log(), difference) {
				t.Errorf("%s has logged %q", member.Program.Name, difference)
			}
		}
	}
	if raised := alarms(t, group.Dial()); len(raised) > 0 {
		t.Errorf("there are alarms: %v", raised)
	}
	if err := group.SameHashes(context20s(t)); err != nil {
		t.Error(err)
	}
}

// diverge writes to all members, and then flips a bit of a value of some of them.
func diverge(t *testing.T, group *cluster.Group, diverged []int) {
	t.Helper()
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		put(t, group.Members[i%3].Dial(), fmt.Sprint("key", i%5), "value")
	}
	for _, i := range diverged {
		member := group.Members[i]
		read(t, member)
		if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
		// Another key for each, so that they differ from each other too.
		cluster.Plant(t, member, fmt.Sprint("key", i))
	}
}

// suspects waits until there are alarms, and tells whose they are by place in the group; -1 is
// nobody's.
func suspects(t *testing.T, group *cluster.Group) (found []int) {
	t.Helper()
	ids := map[uint64]int{0: -1}
	for i, member := range group.Members {
		ids[read(t, member).Header.MemberId] = i
	}
	connection, ctx := group.Dial(), context20s(t)
	for ctx.Err() == nil {
		for _, alarm := range alarms(t, connection) {
			place, known := ids[alarm.MemberID]
			if !known || alarm.Alarm != pb.AlarmType_CORRUPT {
				t.Fatalf("this alarm makes no sense: %v", alarm)
			}
			found = append(found, place)
		}
		if len(found) > 0 {
			return found
		}
		time.Sleep(pollInterval)
	}
	t.Fatal("no alarm was raised")
	return nil
}

// A bit that has flipped in one member raises the alarm for that member, whichever program checks
// and whichever has the flaw; where that cannot be told, it is raised for nobody, as in etcd.
func TestADifferenceRaisesTheAlarmForTheRightMember(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	logs := map[cluster.Program]string{}
	for _, run := range []struct {
		name     string
		programs []cluster.Program
		diverged []int
		want     int
	}{
		// The first member leads.
		{"etcd, a follower", cluster.Three(etcd), []int{2}, 2},
		{"subject, a follower", cluster.Three(subject), []int{2}, 2},
		{"subject checks etcd", []cluster.Program{subject, subject, etcd}, []int{2}, 2},
		{"etcd checks subject", []cluster.Program{etcd, etcd, subject}, []int{2}, 2},
		{"etcd, the leader", cluster.Three(etcd), []int{0}, 0},
		{"subject, the leader", cluster.Three(subject), []int{0}, 0},
		{"etcd, two members", cluster.Three(etcd), []int{1, 2}, -1},
		{"subject, two members", cluster.Three(subject), []int{1, 2}, -1},
	} {
		t.Run("by compactions/"+run.name, func(t *testing.T) {
			group := cluster.NewGroup(t, run.programs...)
			group.AddArgs(byCompactions...)
			diverge(t, group, run.diverged)
			if err := group.Run(); err != nil {
				t.Fatal(err)
			}
			lead(t, group, group.Members[0])
			current := read(t, group.Members[0]).Header.Revision
			_, err := pb.NewKVClient(group.Members[0].Dial()).Compact(context20s(t),
				&pb.CompactionRequest{Revision: current - 1, Physical: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := suspects(t, group); len(got) != 1 || got[0] != run.want {
				t.Errorf("the alarm is raised for %v and not for %d", got, run.want)
			}
			logged(t, group.Members[0], 0, 1, `"level":"error"`, `"Detected compaction hash mismatch"`,
				`"leader-compact-revision":-1`, fmt.Sprintf(`"quorum-exist":%v`, run.want >= 0))
			logs[run.programs[0]] += group.Members[0].Log()
		})
		if run.want != 2 {
			// The periodic check suspects whichever follower it asks first.
			continue
		}
		t.Run("periodically/"+run.name, func(t *testing.T) {
			group := cluster.NewGroup(t, run.programs...)
			group.AddArgs(periodically...)
			diverge(t, group, run.diverged)
			lead(t, group, group.Members[0])
			if err := group.Run(); err != nil {
				t.Fatal(err)
			}
			if got := suspects(t, group); len(got) != 1 || got[0] != run.want {
				t.Errorf("the alarm is raised for %v and not for %d", got, run.want)
			}
			logged(t, group.Members[0], 0, 1, `"level":"warn"`, `"follower-compact-revision":-1`,
				`"same compact revision then hashes must match"`, `"follower-peer-id":"`)
			logs[run.programs[0]] += group.Members[0].Log()
		})
	}
	sameFields(t, logs[etcd], logs[subject],
		"Detected compaction hash mismatch", "same compact revision then hashes must match",
		"Detected compaction hash mismatch but cannot identify the corrupted members, "+
			"so intentionally set the memberID as 0")
}

// What an operator does about the alarm: as long as the data differ it comes back, however often it
// is disarmed; once they are the same again, the cluster serves and stays without it.
func TestTheWayOutOfACorruptAlarm(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.NewGroup(t, cluster.Three(program)...)
		group.AddArgs(periodically...)
		diverge(t, group, []int{2})
		lead(t, group, group.Members[0])
		if err := group.Run(); err != nil {
			t.Fatal(err)
		}
		tell := func(what string, answer any) {
			told[program.Name] = append(told[program.Name], fmt.Sprint(what, ": ", answer))
		}
		connection := group.Dial()
		disarm := func() {
			etcdctl(t, "--endpoints="+group.Members[0].Client, "alarm", "disarm")
		}
		for range 2 {
			tell("suspects", suspects(t, group))
			for _, member := range group.Members {
				// Which may be a moment behind the one that told of the alarm.
				read(t, member)
				_, err := pb.NewKVClient(member.Dial()).Put(context20s(t),
					&pb.PutRequest{Key: []byte("refused")})
				tell("put", err)
				expect(t, member.Dial(), "key3", "value")
			}
			disarm()
		}
		suspects(t, group)
		// As etcd's guide has it: the member goes, and comes back with the data of the others.
		shrink(t, group, group.Members[2])
		grow(t, group, program, false)
		leader := group.Leader()
		// Its last check may have been before that member was replaced.
		mark := len(leader.Log())
		logged(t, leader, mark, 2, "finished peer corruption check", `"number-of-peers-checked":2`)
		disarm()
		mark = len(leader.Log())
		put(t, connection, "after", "value")
		logged(t, leader, mark, 2, "finished peer corruption check", `"number-of-peers-checked":2`)
		tell("alarms", len(alarms(t, connection)))
		if err := group.SameHashes(context20s(t)); err != nil {
			t.Error(err)
		}
	}
	compare(t, told)
}

// A member that has other data than the others does not start, and starts once it has theirs.
func TestTheInitialCheckKeepsADivergedMemberOut(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	told, logs := map[string][]string{}, map[cluster.Program]string{}
	for name, programs := range map[string][]cluster.Program{
		etcd.Name:          cluster.Three(etcd),
		subject.Name:       cluster.Three(subject),
		"subject by etcds": {etcd, etcd, subject},
	} {
		t.Run(name, func(t *testing.T) {
			group := cluster.NewGroup(t, programs...)
			group.AddArgs(initially...)
			diverge(t, group, []int{2})
			// The others go on meanwhile, and are asked for the revision that the member has.
			put(t, group.Members[0].Dial(), "later", "value")
			member := group.Members[2]
			mark := len(member.Log())
			if err := member.Launch(); err != nil {
				t.Fatal(err)
			}
			exit, err := member.WaitExit(callTimeout)
			if err != nil {
				t.Fatal(err)
			}
			told[name] = append(told[name], fmt.Sprint(exit))
			for _, line := range strings.Split(member.Log()[mark:], "\n") {
				for _, part := range []string{
					"starting initial corruption check", "found different hash values from remote peer",
					"checkInitialHashKV failed", "ready to serve client requests",
				} {
					if strings.Contains(line, part) {
						level, _, _ := strings.Cut(line, ",")
						told[name] = append(told[name], level+" "+part)
					}
				}
			}
			logged(t, member, mark, 1, `"level":"fatal"`, "found data inconsistency with peers")
			cluster.Plant(t, member, "key2")
			mark = len(member.Log())
			if err := member.Run(); err != nil {
				t.Fatal(err)
			}
			logged(t, member, mark, 1, "initial corruption checking passed; no corruption")
			logs[member.Program] += member.Log()
			if err := group.SameHashes(context20s(t)); err != nil {
				t.Error(err)
			}
		})
	}
	told[subject.Name] = append(told[subject.Name], told["subject by etcds"]...)
	told[etcd.Name] = append(told[etcd.Name], told[etcd.Name]...)
	compare(t, told)
	sameFields(t, logs[etcd], logs[subject],
		"starting initial corruption check", "found different hash values from remote peer",
		"checkInitialHashKV failed", "initial corruption checking passed; no corruption")
}

// Members that start at the same time ask each other before any of them answers; they come up all
// the same, also after none of them could close.
func TestMembersThatCheckEachOtherAtOnceStart(t *testing.T) {
	t.Parallel()
	group := cluster.NewGroup(t, cluster.Three(cluster.Subject(t))...)
	group.AddArgs(initially...)
	diverge(t, group, nil)
	var marks []int
	for _, member := range group.Members {
		member.Kill()
		marks = append(marks, len(member.Log()))
	}
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	for i, member := range group.Members {
		logged(t, member, marks[i], 1, "initial corruption checking passed; no corruption")
	}
	expect(t, group.Leader().Dial(), "key4", "value")
	if err := group.SameHashes(context20s(t)); err != nil {
		t.Error(err)
	}
}

// A planted difference shows in the hash, and is no damage that the offline check would find.
func TestAPlantedDifferenceIsNoDamage(t *testing.T) {
	t.Parallel()
	subject := cluster.Subject(t)
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd has no such command")
	}
	member := cluster.Start(t, subject, cluster.Options{})
	put(t, member.Dial(), "key", "value")
	put(t, member.Dial(), "key", "value")
	if err := member.Stop(); err != nil {
		t.Fatal(err)
	}
	offline := func(command string) string {
		out, err := exec.Command(subject.Path, command, member.DataDir).CombinedOutput()
		if err != nil {
			t.Errorf("trilith %s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	before := offline("hashkv")
	cluster.Plant(t, member, "key")
	if after := offline("hashkv"); after == before {
		t.Errorf("the hash is the same: %s", after)
	}
	if text := offline("check"); !strings.Contains(text, "state: sound at revision 3") {
		t.Error(text)
	}
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	expect(t, member.Dial(), "key", "walue")
}
