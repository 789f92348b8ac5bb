package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/testing/protocmp"

	"trilith.dev/tests/internal/boltfile"
	"trilith.dev/tests/internal/cluster"
)

func connect(t testing.TB, member *cluster.Member) *clientv3.Client {
	t.Helper()
	return member.Connect(clientv3.Config{})
}

// history is what a member is filled with: every kind of change, and a compaction in the middle.
type history struct {
	client *clientv3.Client
	ctx    context.Context
	t      testing.TB
}

func (h history) must(_ any, err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// make returns the revision that the compaction was at.
func (h history) make() int64 {
	h.must(h.client.Grant(h.ctx, 1000))
	h.must(pb.NewLeaseClient(h.client.ActiveConnection()).LeaseGrant(h.ctx,
		&pb.LeaseGrantRequest{ID: 77, TTL: 5000}))
	for number := range 300 {
		h.must(h.client.Put(h.ctx, fmt.Sprintf("key %03d", number%100), strings.Repeat("v", number)))
	}
	h.must(h.client.Put(h.ctx, "large", strings.Repeat("x", 1<<20)))
	h.must(h.client.Put(h.ctx, "large", strings.Repeat("y", 100_000)))
	h.must(h.client.Put(h.ctx, "leased", "1", clientv3.WithLease(77)))
	h.must(h.client.Put(h.ctx, "leased too", "1", clientv3.WithLease(77)))
	deleted, err := h.client.Delete(h.ctx, "key 01", clientv3.WithPrefix())
	h.must(deleted, err)
	compacted := deleted.Header.Revision
	h.must(h.client.Delete(h.ctx, "key 02", clientv3.WithPrefix()))
	h.must(h.client.Put(h.ctx, "key 020", "again"))
	h.must(h.client.Compact(h.ctx, compacted, clientv3.WithCompactPhysical()))
	h.must(h.client.Txn(h.ctx).Then(
		clientv3.OpPut("txn a", "1"), clientv3.OpPut("txn b", "2"), clientv3.OpDelete("key 030"),
	).Commit())
	h.must(h.client.Put(h.ctx, "key 040", ""))
	h.must(pb.NewMaintenanceClient(h.client.ActiveConnection()).Alarm(h.ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_NOSPACE,
	}))
	return compacted
}

// disarm takes back the alarm that make raises, so that there can be puts again.
func (h history) disarm() {
	h.must(pb.NewMaintenanceClient(h.client.ActiveConnection()).Alarm(h.ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: 5, Alarm: pb.AlarmType_NOSPACE,
	}))
}

// view is what a client sees of a member, but for what belongs to the cluster it is in.
func view(t testing.TB, ctx context.Context, client *clientv3.Client, from int64) []any {
	t.Helper()
	connection := client.ActiveConnection()
	maintenance, kv := pb.NewMaintenanceClient(connection), pb.NewKVClient(connection)
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	now, err := kv.Range(ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	current := now.Header.Revision
	seen := []any{current}
	for revision := from; revision <= current; revision++ {
		all.Revision = revision
		then, err := kv.Range(ctx, all)
		if err != nil {
			t.Fatal(err)
		}
		hash, err := maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		// At the compacted revision a member answers what it kept from its compaction, if it did.
		if revision > from {
			seen = append(seen, hash.Hash, hash.CompactRevision)
		}
		seen = append(seen, then.Kvs, then.Count)
	}
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: from - 1})
	seen = append(seen, fmt.Sprint(err))
	leases, err := pb.NewLeaseClient(connection).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(leases.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.ID, b.ID) })
	seen = append(seen, leases.Leases)
	left, err := pb.NewLeaseClient(connection).LeaseTimeToLive(ctx,
		&pb.LeaseTimeToLiveRequest{ID: 77, Keys: true})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(left.Keys, bytes.Compare)
	seen = append(seen, left.GrantedTTL, left.Keys)
	alarms, err := maintenance.Alarm(ctx, &pb.AlarmRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return append(seen, alarms.Alarms)
}

func TestEtcdServesWhatTheSnapshotHolds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	subject := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	client := connect(t, subject)
	compacted := history{client, ctx, t}.make()
	before := view(t, ctx, client, compacted)
	hash, err := pb.NewMaintenanceClient(client.ActiveConnection()).Hash(ctx, &pb.HashRequest{})
	if err != nil {
		t.Fatal(err)
	}

	path := save(t, subject)
	status, content := statusOf(t, path), contentOf(t, path)
	if status.Hash != content.Hash || hash.Hash != content.MemberHash {
		t.Errorf("hashes: status %x and Hash %x, but the content has %x and %x",
			status.Hash, hash.Hash, content.Hash, content.MemberHash)
	}
	if status.Revision != before[0] || status.Version != "3.7.0" {
		t.Errorf("status says %+v of a member at revision %v", status, before[0])
	}

	folder := restore(t, path)
	etcd := cluster.Start(t, cluster.Reference(t), cluster.Options{DataDir: folder})
	restored := connect(t, etcd)
	after := view(t, ctx, restored, compacted)
	if difference := gocmp.Diff(before, after, protocmp.Transform()); difference != "" {
		t.Errorf("etcd serves something else than was saved:\n%s", difference)
	}
	// etcd goes on writing into the file.
	h := history{restored, ctx, t}
	h.disarm()
	for number := range 200 {
		h.must(restored.Put(ctx, fmt.Sprintf("later %d", number%50), strings.Repeat("z", number*10)))
	}
	h.must(restored.Compact(ctx, before[0].(int64)+100, clientv3.WithCompactPhysical()))
	if again := statusOf(t, save(t, etcd)); again.Revision != before[0].(int64)+200 {
		t.Errorf("after 200 puts the restored member is at %d", again.Revision)
	}
}

// The same commands make the same file, apart from what is a member's own.
func TestTheFileIsWhatEtcdWouldWrite(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var found [2]boltfile.Content
	var tables [2]string
	for at, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		member := cluster.Start(t, program, cluster.Options{})
		client := connect(t, member)
		h := history{client, ctx, t}
		h.make()
		// Which number the first lease got is the server's choice.
		leases, err := client.Leases(ctx)
		h.must(leases, err)
		for _, lease := range leases.Leases {
			if lease.ID != 77 {
				h.must(client.Revoke(ctx, lease.ID))
			}
		}
		path := save(t, member)
		found[at] = contentOf(t, path)
		// Hash and size are the file's own; the rows around them are not.
		status := statusOf(t, path)
		tables[at] = fmt.Sprint(status.Revision, status.TotalKey, status.Version, "\n")
		table := runTool(t, "etcdutl", "--write-out=table", "snapshot", "status", path)
		tables[at] += strings.Split(table, "\n")[1]
		for key := range boltfile.OwnKeys {
			if _, exists := found[at].Buckets["meta"][key]; !exists {
				t.Errorf("%s has no %s in the bucket meta", program.Name, key)
			}
		}
	}
	if difference := gocmp.Diff(found[0].Shared(), found[1].Shared()); difference != "" {
		t.Errorf("the buckets differ (-etcd +subject):\n%s", difference)
	}
	if tables[0] != tables[1] {
		t.Errorf("etcdutl says of etcd's file\n%s\nand of the subject's\n%s", tables[0], tables[1])
	}
}
