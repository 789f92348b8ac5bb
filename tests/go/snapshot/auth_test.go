package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// connectAs authenticates; without a name it does not.
func connectAs(t testing.TB, member *cluster.Member, name string) *clientv3.Client {
	t.Helper()
	return member.Connect(clientv3.Config{Username: name, Password: "password of " + name})
}

// refused takes the answer to a call that its user may not make. Only such calls count as go into
// the log all the same: what etcd's API refuses by itself would prove nothing.
func (h history) refused(_ any, err error) {
	h.t.Helper()
	if !errors.Is(err, rpctypes.ErrPermissionDenied) {
		h.t.Fatalf("the answer is %v", err)
	}
}

// withUsers makes users and roles in all ways there are, and lets users do what they may and what
// they may not. Authentication is on afterwards.
func withUsers(t testing.TB, ctx context.Context, etcd *cluster.Member) {
	h := history{connect(t, etcd), ctx, t}
	auth := h.client.Auth
	h.must(auth.UserAdd(ctx, "root", "password of root"))
	h.must(auth.UserGrantRole(ctx, "root", "root"))
	h.must(auth.UserAddWithOptions(ctx, "cert", "", &clientv3.UserAddOptions{NoPassword: true}))
	for _, name := range []string{"zoe", "bob", "eve", "älvsborg"} {
		h.must(auth.UserAdd(ctx, name, "password of "+name))
	}
	for _, role := range []string{"writer", "reader", "all", "gone", "root", "many"} {
		h.must(auth.RoleAdd(ctx, role))
		h.must(auth.UserGrantRole(ctx, "zoe", role))
	}
	h.must(auth.UserGrantRole(ctx, "zoe", "reader"))
	h.must(auth.UserRevokeRole(ctx, "zoe", "root"))
	h.must(auth.UserRevokeRole(ctx, "zoe", "all"))
	h.must(auth.UserGrantRole(ctx, "bob", "writer"))
	h.must(auth.UserGrantRole(ctx, "bob", "reader"))
	h.must(auth.UserGrantRole(ctx, "eve", "reader"))
	grant := func(role, key, end string, kind clientv3.PermissionType) {
		h.must(auth.RoleGrantPermission(ctx, role, key, end, kind))
	}
	read, write := clientv3.PermissionType(clientv3.PermRead), clientv3.PermissionType(clientv3.PermWrite)
	both := clientv3.PermissionType(clientv3.PermReadWrite)
	grant("writer", "w", "x", write)
	grant("writer", "a", "", both)
	grant("writer", "w", "x", both)
	grant("writer", "b", "c", write)
	grant("reader", "a", "\x00", read)
	grant("all", "\x00", "\x00", both)
	grant("gone", "a", "z", both)
	// Ranges that begin at one key. The last of them comes twice and makes twelve: no more than Go's
	// sort puts in order by insertion, which is stable.
	for number := range 11 {
		grant("many", fmt.Sprintf("m%d", number*7%4), fmt.Sprintf("n%02d", number), read)
	}
	grant("many", "m0", "n00", write)
	grant("many", "m0", "n08", both)
	h.must(auth.RoleRevokePermission(ctx, "many", "m0", "n08"))
	h.must(auth.RoleDelete(ctx, "gone"))
	h.must(auth.UserDelete(ctx, "älvsborg"))
	h.must(auth.UserChangePassword(ctx, "cert", "still none"))
	h.must(h.client.Put(ctx, "secret", "1"))
	h.must(auth.AuthEnable(ctx))
	asUsers(t, ctx, etcd)
}

// asUsers lets users do what they may and what they may not.
func asUsers(t testing.TB, ctx context.Context, etcd *cluster.Member) {
	h := history{connectAs(t, etcd, "root"), ctx, t}
	both := clientv3.PermissionType(clientv3.PermReadWrite)
	root := history{connectAs(t, etcd, "root"), ctx, t}
	bob := history{connectAs(t, etcd, "bob"), ctx, t}
	eve := history{connectAs(t, etcd, "eve"), ctx, t}
	for number := range 5 {
		h.must(bob.client.Put(ctx, fmt.Sprintf("w%d", number), "1"))
		h.refused(bob.client.Put(ctx, fmt.Sprintf("v%d", number), "1"))
	}
	h.must(bob.client.Put(ctx, "a", "1", clientv3.WithPrevKV()))
	h.must(bob.client.Put(ctx, "b", "1"))
	h.refused(eve.client.Put(ctx, "a", "2"))
	h.must(bob.client.Delete(ctx, "w", clientv3.WithRange("w2"), clientv3.WithPrevKV()))
	h.refused(bob.client.Delete(ctx, "w", clientv3.WithRange("x1")))
	h.refused(bob.client.Delete(ctx, "", clientv3.WithFromKey()))
	txn := func(h history, key string, then, otherwise clientv3.Op) (*clientv3.TxnResponse, error) {
		found := clientv3.Compare(clientv3.Version(key), ">", 0)
		return h.client.Txn(ctx).If(found).Then(then).Else(otherwise).Commit()
	}
	put, other := clientv3.OpPut("w7", "1"), clientv3.OpPut("secret", "2")
	h.must(txn(bob, "w3", put, clientv3.OpTxn(nil, []clientv3.Op{put}, nil)))
	h.refused(txn(bob, "w3", put, other))
	h.refused(txn(bob, "w3", clientv3.OpTxn(nil, []clientv3.Op{put}, []clientv3.Op{other}), put))
	h.refused(txn(eve, "w3", put, put))

	lease, err := root.client.Grant(ctx, 5000)
	h.must(lease, err)
	h.must(root.client.Put(ctx, "w leased", "1", clientv3.WithLease(lease.ID)))
	h.must(bob.client.Put(ctx, "w leased too", "1", clientv3.WithLease(lease.ID)))
	h.refused(eve.client.Revoke(ctx, lease.ID))
	h.must(root.client.Put(ctx, "secret leased", "1", clientv3.WithLease(lease.ID)))
	h.refused(bob.client.Put(ctx, "w not leased", "1", clientv3.WithLease(lease.ID)))
	h.refused(bob.client.Revoke(ctx, lease.ID))
	mine, err := bob.client.Grant(ctx, 5000)
	h.must(mine, err)
	h.must(bob.client.Put(ctx, "w mine", "1", clientv3.WithLease(mine.ID)))
	h.must(bob.client.Revoke(ctx, mine.ID))

	h.must(root.client.RoleRevokePermission(ctx, "writer", "w", "x"))
	h.refused(bob.client.Put(ctx, "w", "1"))
	h.must(root.client.RoleGrantPermission(ctx, "writer", "v", "w", both))
	h.must(bob.client.Put(ctx, "v", "1"))
	h.must(root.client.UserChangePassword(ctx, "eve", "another"))
	h.refused(bob.client.UserAdd(ctx, "mallory", "m"))
	h.refused(bob.client.RoleGrantPermission(ctx, "writer", "\x00", "\x00", both))
	h.refused(bob.client.AuthDisable(ctx))
}

// database is etcd's file of its state, in a data directory.
var database = filepath.Join("member", "snap", "db")

// onlyInTheLog starts etcd, lets fill write through it, and kills it. It also returns a copy of its
// data directory as an earlier kill could have left it: the database has nothing of what was
// written, the log has it all.
func onlyInTheLog(t testing.TB, fill func(*cluster.Member)) (*cluster.Member, string) {
	t.Helper()
	etcd := cluster.Start(t, cluster.Reference(t), cluster.Options{})
	if err := etcd.Stop(); err != nil {
		t.Fatal(err)
	}
	early, err := os.ReadFile(filepath.Join(etcd.DataDir, database))
	if err != nil {
		t.Fatal(err)
	}
	if err := etcd.Run(); err != nil {
		t.Fatal(err)
	}
	fill(etcd)
	etcd.Kill()
	folder := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(folder, os.DirFS(etcd.DataDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, database), early, 0o600); err != nil {
		t.Fatal(err)
	}
	return etcd, folder
}

func TestUsersAndRolesComeOutOfTheLogAsEtcdHasThem(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var hash *pb.HashKVResponse
	etcd, folder := onlyInTheLog(t, func(etcd *cluster.Member) {
		withUsers(t, ctx, etcd)
		root := connectAs(t, etcd, "root")
		history{root, ctx, t}.must(root.AuthDisable(ctx))
		var err error
		hash, err = pb.NewMaintenanceClient(connect(t, etcd).ActiveConnection()).
			HashKV(ctx, &pb.HashKVRequest{})
		if err != nil {
			t.Fatal(err)
		}
	})
	// A clean stop commits what the kill has left to the log.
	if err := etcd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := etcd.Stop(); err != nil {
		t.Fatal(err)
	}
	want := contentOf(t, filepath.Join(etcd.DataDir, database))
	subject := cluster.Start(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	client := connect(t, subject)
	got, err := pb.NewMaintenanceClient(client.ActiveConnection()).HashKV(ctx, &pb.HashKVRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Hash != hash.Hash || got.HashRevision != hash.HashRevision {
		t.Errorf("HashKV is %d at %d, etcd's %d at %d",
			got.Hash, got.HashRevision, hash.Hash, hash.HashRevision)
	}
	found := contentOf(t, save(t, subject)).Shared()
	for _, name := range []string{"auth", "authUsers", "authRoles"} {
		if len(want.Buckets[name]) == 0 {
			t.Errorf("etcd's bucket %s is empty", name)
		}
	}
	if difference := gocmp.Diff(want.Shared(), found); difference != "" {
		t.Errorf("the buckets differ (-etcd +subject):\n%s", difference)
	}
}

// refusedEverywhere calls one method of each kind.
func refusedEverywhere(t *testing.T, ctx context.Context, client *clientv3.Client) {
	connection := client.ActiveConnection()
	kv, maintenance := pb.NewKVClient(connection), pb.NewMaintenanceClient(connection)
	calls := map[string]func() error{
		"Range": func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
			return err
		},
		"Put": func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
			return err
		},
		"Watch": func() error {
			stream, err := pb.NewWatchClient(connection).Watch(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"LeaseGrant": func() error {
			_, err := pb.NewLeaseClient(connection).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 9})
			return err
		},
		"Snapshot": func() error {
			stream, err := maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"MemberRemove": func() error {
			_, err := pb.NewClusterClient(connection).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 1})
			return err
		},
	}
	for name, call := range calls {
		err := call()
		says := "authentication is enabled in this cluster"
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), says) {
			t.Errorf("%s answers %v", name, err)
		}
	}
	if _, err := maintenance.Status(ctx, &pb.StatusRequest{}); err != nil {
		t.Errorf("Status answers %v", err)
	}
	members := &pb.MemberListRequest{}
	if _, err := pb.NewClusterClient(connection).MemberList(ctx, members); err != nil {
		t.Errorf("MemberList answers %v", err)
	}
}

func TestClientsAreRefusedWhileAuthenticationIsOn(t *testing.T) {
	t.Parallel()
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd can authenticate clients")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_, folder := onlyInTheLog(t, func(etcd *cluster.Member) { withUsers(t, ctx, etcd) })
	// Readiness is a read, which is refused: what has to be waited for is the election alone.
	subject := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	if err := subject.Launch(); err != nil {
		t.Fatal(err)
	}
	client := connect(t, subject)
	maintenance := pb.NewMaintenanceClient(client.ActiveConnection())
	for {
		answer, err := maintenance.Status(ctx, &pb.StatusRequest{})
		if err == nil && answer.Leader != 0 && answer.RaftAppliedIndex == answer.RaftIndex {
			break
		}
		if ctx.Err() != nil || !subject.Alive() {
			t.Fatalf("the subject does not come up: %v\n%s", err, subject.Log())
		}
		time.Sleep(pollInterval)
	}
	refusedEverywhere(t, ctx, client)
	if err := subject.Stop(); err != nil {
		t.Fatal(err)
	}
}
