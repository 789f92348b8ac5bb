package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// asRoot is what root sees of users and roles, each with all that belongs to it.
func asRoot(t testing.TB, ctx context.Context, root *clientv3.Client) (seen []string) {
	t.Helper()
	h := history{root, ctx, t}
	users, err := root.UserList(ctx)
	h.must(users, err)
	for _, name := range users.Users {
		user, err := root.UserGet(ctx, name)
		h.must(user, err)
		seen = append(seen, fmt.Sprint("user ", name, " ", user.Roles))
	}
	roles, err := root.RoleList(ctx)
	h.must(roles, err)
	for _, name := range roles.Roles {
		role, err := root.RoleGet(ctx, name)
		h.must(role, err)
		for _, permission := range role.Perm {
			seen = append(seen, fmt.Sprintf("role %s %v %q %q", name, permission.PermType, permission.Key,
				permission.RangeEnd))
		}
	}
	status, err := root.AuthStatus(ctx)
	h.must(status, err)
	return append(seen, fmt.Sprint("enabled ", status.Enabled))
}

// passwords lets everybody in who has the right password, and nobody else, and then each do what he
// may after withUsers.
func passwords(t testing.TB, ctx context.Context, member *cluster.Member) {
	t.Helper()
	login := func(name, password string) error {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: []string{member.Client}, Username: name, Password: password,
		})
		if err == nil {
			client.Close()
		}
		return err
	}
	for name, password := range map[string]string{
		"root": "password of root", "zoe": "password of zoe", "bob": "password of bob", "eve": "another",
	} {
		if err := login(name, password); err != nil {
			t.Errorf("%s is not let in: %v", name, err)
		}
		if err := login(name, password+"?"); !errors.Is(err, rpctypes.ErrAuthFailed) {
			t.Errorf("%s is let in with another password: %v", name, err)
		}
	}
	for name, password := range map[string]string{
		"eve": "password of eve", "cert": "still none", "älvsborg": "password of älvsborg",
	} {
		if err := login(name, password); err == nil {
			t.Errorf("%s is let in", name)
		}
	}
	bob := history{connectAs(t, member, "bob"), ctx, t}
	bob.must(bob.client.Put(ctx, "v", "back"))
	bob.must(bob.client.Put(ctx, "a", "back"))
	bob.refused(bob.client.Put(ctx, "w", "1"))
	bob.refused(bob.client.Put(ctx, "secret", "1"))
	bob.refused(bob.client.UserAdd(ctx, "mallory", "m"))
}

// Users and roles that were taken over from etcd go back to it in a snapshot: all of them with their
// roles, permissions and passwords, also what was changed through the log alone.
func TestUsersAndRolesGoBackToEtcd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var before []string
	_, folder := onlyInTheLog(t, func(etcd *cluster.Member) {
		withUsers(t, ctx, etcd)
		root := connectAs(t, etcd, "root")
		before = asRoot(t, ctx, root)
		// With authentication on, this server refuses the call that takes the snapshot.
		history{root, ctx, t}.must(root.AuthDisable(ctx))
	})
	subject := cluster.Start(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	back := cluster.Start(t, cluster.Reference(t), cluster.Options{DataDir: restore(t, save(t, subject))})
	history{connect(t, back), ctx, t}.must(connect(t, back).AuthEnable(ctx))
	after := asRoot(t, ctx, connectAs(t, back, "root"))
	if difference := gocmp.Diff(before, after); difference != "" {
		t.Errorf("they have changed on the way (-before +after):\n%s", difference)
	}
	passwords(t, ctx, back)
}

// A member of etcd's that joins, and is sent the whole state by a leader of ours, has the users and
// roles too: it lets in whom it should while authentication is on everywhere.
func TestUsersAndRolesGoToEtcdsMemberBySnapshot(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("nothing of this program's takes part")
	}
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	subject := cluster.Subject(t)
	short := []string{"--snapshot-count=100", "--snapshot-catchup-entries=10", "--log-level=debug"}
	group := cluster.NewGroup(t, cluster.Reference(t), subject, subject)
	group.AddArgs(short...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	withUsers(t, ctx, group.Members[0])
	root := connectAs(t, group.Members[0], "root")
	h := history{root, ctx, t}
	for number := range 300 {
		h.must(root.Put(ctx, fmt.Sprint("filler", number%10), "x"))
	}
	before := asRoot(t, ctx, root)
	// A stop makes the state durable, after which the log is cut. Readiness is a read, which is refused.
	for _, member := range group.Members[1:] {
		cuts := strings.Count(member.Log(), "compacted Raft logs")
		if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := member.Launch(); err != nil {
			t.Fatal(err)
		}
		waitForLog(t, member, "compacted Raft logs", cuts+1)
		leadByOneOf(t, ctx, root, group.Members[1:])
	}
	joiner := group.Joiner(cluster.Reference(t))
	joiner.AddArgs(short...)
	addWhenHealthy(t, ctx, root, group.PeerURL(3))
	if err := joiner.Launch(); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, joiner, "ready to serve client requests", 1)
	if !strings.Contains(joiner.Log(), "applied snapshot") {
		t.Errorf("it has joined without a snapshot:\n%s", joiner.Log())
	}
	if difference := gocmp.Diff(before, asRoot(t, ctx, connectAs(t, joiner, "root"))); difference != "" {
		t.Errorf("they have changed on the way (-before +after):\n%s", difference)
	}
	passwords(t, ctx, joiner)
}

// leadByOneOf waits until one of some members leads, and lets another one that root is connected to
// hand over to the first of them. They tell who leads without authentication.
func leadByOneOf(t testing.TB, ctx context.Context, root *clientv3.Client, members []*cluster.Member) {
	t.Helper()
	var asked []pb.MaintenanceClient
	for _, member := range members {
		asked = append(asked, pb.NewMaintenanceClient(member.Dial()))
	}
	for {
		var ids []uint64
		var leader uint64
		for _, member := range asked {
			status, err := member.Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
			if err != nil {
				t.Fatal(err)
			}
			ids, leader = append(ids, status.Header.MemberId), status.Leader
		}
		if slices.Contains(ids, leader) {
			return
		}
		// Which it refuses when it does not lead itself.
		if _, err := root.MoveLeader(ctx, ids[0]); err != nil && ctx.Err() != nil {
			t.Fatalf("none of them leads: %v", err)
		}
		time.Sleep(pollInterval)
	}
}

// addWhenHealthy adds a member as soon as the others have known each other for long enough.
func addWhenHealthy(t testing.TB, ctx context.Context, client *clientv3.Client, peer string) {
	t.Helper()
	for {
		_, err := client.MemberAdd(ctx, []string{peer})
		if err == nil {
			return
		}
		if !errors.Is(err, rpctypes.ErrUnhealthy) && status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
		time.Sleep(pollInterval)
	}
}
