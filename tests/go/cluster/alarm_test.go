package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"trilith.dev/tests/internal/cluster"
)

// alarmed is a member whose alarms are raised and disarmed, and what a client is told of it.
type alarmed struct {
	t           *testing.T
	ctx         context.Context
	member      *cluster.Member
	kv          pb.KVClient
	leases      pb.LeaseClient
	maintenance pb.MaintenanceClient
	told        []string
}

func newAlarmed(t *testing.T, program cluster.Program) *alarmed {
	t.Helper()
	member := cluster.Start(t, program, cluster.Options{})
	connection := member.Dial()
	return &alarmed{
		t: t, ctx: context20s(t), member: member,
		kv: pb.NewKVClient(connection), leases: pb.NewLeaseClient(connection),
		maintenance: pb.NewMaintenanceClient(connection),
	}
}

// tell notes an answer; how many spaces etcd puts into a text differs from run to run.
func (a *alarmed) tell(what, answer string, err error) {
	if err != nil {
		answer = err.Error()
	}
	a.told = append(a.told, what+": "+strings.Join(strings.Fields(answer), " "))
}

// doAll makes every kind of request that an alarm may refuse.
func (a *alarmed) doAll() {
	key := []byte("key")
	put := &pb.PutRequest{Key: key, Value: []byte("value")}
	_, err := a.kv.Put(a.ctx, put)
	a.tell("put", "", err)
	_, err = a.kv.Range(a.ctx, &pb.RangeRequest{Key: key})
	a.tell("get", "", err)
	_, err = a.kv.Range(a.ctx, &pb.RangeRequest{Key: key, Serializable: true})
	a.tell("serializable get", "", err)
	_, err = a.kv.DeleteRange(a.ctx, &pb.DeleteRangeRequest{Key: []byte("none")})
	a.tell("delete", "", err)
	a.txn("reading", &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
		RequestRange: &pb.RangeRequest{Key: key},
	}})
	a.txn("writing", &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	a.txn("nested reading", &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{
		RequestTxn: &pb.TxnRequest{},
	}})
	current := read(a.t, a.member).Header.Revision
	_, err = a.kv.Compact(a.ctx, &pb.CompactionRequest{Revision: current})
	a.tell("compact", "", err)
	_, err = a.leases.LeaseGrant(a.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 100})
	a.tell("grant", "", err)
	_, err = a.leases.LeaseTimeToLive(a.ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
	a.tell("time to live", "", err)
	_, err = a.leases.LeaseRevoke(a.ctx, &pb.LeaseRevokeRequest{ID: 7})
	a.tell("revoke", "", err)
	_, err = a.maintenance.HashKV(a.ctx, &pb.HashKVRequest{})
	a.tell("hash", "", err)
	status, err := a.maintenance.Status(a.ctx, &pb.StatusRequest{})
	a.tell("status", "", err)
	for _, text := range status.GetErrors() {
		a.tell("status", text, nil)
	}
}

func (a *alarmed) txn(what string, operation *pb.RequestOp) {
	_, err := a.kv.Txn(a.ctx, &pb.TxnRequest{Success: []*pb.RequestOp{operation}})
	a.tell(what+" txn", "", err)
}

func (a *alarmed) alarm(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType, id uint64) {
	got, err := a.maintenance.Alarm(a.ctx,
		&pb.AlarmRequest{Action: action, Alarm: kind, MemberID: id})
	a.tell(fmt.Sprint(action, " ", kind), fmt.Sprint(got.GetAlarms()), err)
}

func (a *alarmed) etcdctl(args ...string) {
	args = append([]string{"--endpoints=" + a.member.Client}, args...)
	a.tell(fmt.Sprint(args[1:]), etcdctl(a.t, args...), nil)
}

// What the CORRUPT alarm refuses and what it lets pass, alone and beside NOSPACE, until each is
// disarmed; and what is told of it.
func TestWhatACorruptAlarmRefuses(t *testing.T) {
	t.Parallel()
	raise, disarm := pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		a := newAlarmed(t, program)
		id := read(t, a.member).Header.MemberId
		a.doAll()
		for range 2 {
			a.alarm(raise, pb.AlarmType_CORRUPT, id)
			a.doAll()
		}
		// etcd lists two alarms in any order, so there is one at a time.
		a.alarm(disarm, pb.AlarmType_CORRUPT, id)
		a.alarm(raise, pb.AlarmType_CORRUPT, 0)
		a.doAll()
		a.etcdctl("alarm", "list")
		a.alarm(disarm, pb.AlarmType_CORRUPT, id)
		a.doAll()
		a.alarm(disarm, pb.AlarmType_CORRUPT, 0)
		a.doAll()
		a.alarm(raise, pb.AlarmType_NOSPACE, id)
		a.doAll()
		a.alarm(raise, pb.AlarmType_CORRUPT, id)
		_, err := a.kv.Put(a.ctx, &pb.PutRequest{Key: []byte("key")})
		a.tell("put with both", "", err)
		_, err = a.kv.DeleteRange(a.ctx, &pb.DeleteRangeRequest{Key: []byte("key")})
		a.tell("delete with both", "", err)
		// The alarms outlive the process.
		if err := a.member.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := a.member.Run(); err != nil {
			t.Fatal(err)
		}
		a.alarm(disarm, pb.AlarmType_NOSPACE, id)
		a.doAll()
		a.etcdctl("alarm", "disarm")
		a.doAll()
		a.etcdctl("alarm", "list")
		told[program.Name] = a.told
	}
	corrupt := "rpc error: code = DataLoss desc = etcdserver: corrupt cluster"
	for _, want := range []string{"put: " + corrupt, "revoke: " + corrupt, "get: "} {
		if !strings.Contains(strings.Join(told[cluster.Reference(t).Name], "\n")+"\n", want+"\n") {
			t.Errorf("nobody was told %q", want)
		}
	}
	compare(t, told)
}
