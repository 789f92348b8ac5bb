package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/cluster"
)

// followerOf is some member that is not the leader.
func followerOf(group *cluster.Group, leader *cluster.Member) *cluster.Member {
	return group.Members[slices.IndexFunc(group.Members, func(member *cluster.Member) bool {
		return member != leader && member.Alive()
	})]
}

// keepAlive renews a lease once, and tells the time that it has then.
func keepAlive(ctx context.Context, connection *grpc.ClientConn, id int64) (int64, error) {
	stream, err := pb.NewLeaseClient(connection).LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.CloseSend() }()
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		return 0, err
	}
	renewed, err := stream.Recv()
	return renewed.GetTTL(), err
}

// leasesThrough does with leases what clients do, and notes what it is told.
func leasesThrough(t *testing.T, member *cluster.Member) (told []string) {
	t.Helper()
	connection := member.Dial()
	client := pb.NewLeaseClient(connection)
	ctx := context20s(t)
	note := func(what string, answer any, err error) {
		told = append(told, fmt.Sprintf("%s: %v %v", what, answer, status.Convert(err).Message()))
	}
	granted, err := client.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 100})
	note("grant", granted.GetTTL(), err)
	granted, err = client.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 100})
	note("grant again", granted.GetTTL(), err)
	for _, key := range []string{"a", "b"} {
		_, err := pb.NewKVClient(connection).Put(ctx, &pb.PutRequest{Key: []byte(key), Lease: 7})
		note("put", key, err)
	}
	for _, id := range []int64{7, 8} {
		ttl, err := keepAlive(ctx, connection, id)
		note(fmt.Sprint("keep alive ", id), ttl, err)
		left, err := client.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		slices.SortFunc(left.GetKeys(), bytes.Compare)
		// A second may have passed.
		isNear := left.GetGrantedTTL()-left.GetTTL() <= 2
		note(fmt.Sprint("time to live ", id), fmt.Sprint(left.GetID(), left.GetGrantedTTL(), isNear,
			string(bytes.Join(left.GetKeys(), []byte(",")))), err)
		// The header is that of the member that was asked.
		if own := read(t, member).Header.MemberId; left.GetHeader().GetMemberId() != own {
			t.Errorf("the header says %x, not %x", left.GetHeader().GetMemberId(), own)
		}
	}
	leases, err := client.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	note("list", leases.GetLeases(), err)
	for range 2 {
		_, err = client.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7})
		note("revoke", "", err)
	}
	ttl, err := keepAlive(ctx, connection, 7)
	note("keep alive after the revoke", ttl, err)
	return told
}

// Whatever a client wants of a lease it gets from a follower too, as on etcd.
func TestLeasesThroughAFollower(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		told[program.Name] = leasesThrough(t, followerOf(group, group.Leader()))
	}
	compare(t, told)
}

// A follower of one kind asks a leader of the other.
func TestLeasesThroughAFollowerOfAnotherKind(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	group := cluster.StartGroup(t, etcd, subject, subject)
	told := map[string][]string{}
	for _, pair := range []struct {
		leader, follower int
		name             string
	}{{1, 2, subject.Name}, {0, 1, etcd.Name}, {1, 0, etcd.Name}} {
		lead(t, group, group.Members[pair.leader])
		if told[pair.name] = leasesThrough(t, group.Members[pair.follower]); len(told) == 2 {
			compare(t, told)
		}
	}
}

// lead lets a member lead.
func lead(t *testing.T, group *cluster.Group, member *cluster.Member) {
	t.Helper()
	for group.Leader() != member {
		target := read(t, member).Header.MemberId
		// A leader that has just come may refuse.
		_, err := pb.NewMaintenanceClient(group.Leader().Dial()).MoveLeader(context20s(t),
			&pb.MoveLeaderRequest{TargetID: target})
		if err != nil {
			t.Log(err)
			time.Sleep(pollInterval)
		}
	}
}

func compare(t *testing.T, told map[string][]string) {
	t.Helper()
	reference, subject := cluster.Reference(t).Name, cluster.Subject(t).Name
	if difference := gocmp.Diff(told[reference], told[subject]); difference != "" {
		t.Errorf("%s tells something else:\n%s", subject, difference)
	}
}

// The questions that members ask of each other about leases are answered as etcd answers them.
func TestMembersAreAskedAboutLeasesAsEtcds(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	marshal := func(message proto.Message) []byte {
		data, err := proto.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	renew := func(id int64) []byte { return marshal(&pb.LeaseKeepAliveRequest{ID: id}) }
	left := func(id int64) []byte {
		return marshal(&leasepb.LeaseInternalRequest{
			LeaseTimeToLiveRequest: &pb.LeaseTimeToLiveRequest{ID: id, Keys: true},
		})
	}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		leader := group.Leader()
		_, err := pb.NewLeaseClient(leader.Dial()).LeaseGrant(context20s(t),
			&pb.LeaseGrantRequest{ID: 7, TTL: 9000000})
		if err != nil {
			t.Fatal(err)
		}
		follower := followerOf(group, leader)
		// The follower has the lease too when it has answered this.
		read(t, follower)
		for who, member := range map[string]*cluster.Member{"leader": leader, "follower": follower} {
			url := group.PeerURL(slices.Index(group.Members, member))
			for _, question := range []struct {
				what, method, path string
				body               []byte
			}{
				{"renew", http.MethodPost, "/leases", renew(7)},
				{"renew by GET", http.MethodGet, "/leases", renew(7)},
				{"renew junk", http.MethodPost, "/leases", []byte("\xff")},
				{"renew too much", http.MethodPost, "/leases", make([]byte, 64<<10+1)},
				{"left", http.MethodPost, "/leases/internal", left(7)},
				{"left by GET", http.MethodGet, "/leases/internal", left(7)},
				{"left junk", http.MethodPost, "/leases/internal", []byte("\xff")},
				{"below", http.MethodPost, "/leases/other", renew(7)},
			} {
				answer := askWith(t, question.method, url+question.path, question.body)
				if who == "leader" && question.what == "left" {
					// Seconds pass.
					answer = answer[:3]
				}
				told[program.Name] = append(told[program.Name],
					fmt.Sprint(who, " ", question.what, ": ", answer))
			}
			if who == "leader" {
				for _, path := range []string{"/leases", "/leases/internal"} {
					body := map[string][]byte{"/leases": renew(8), "/leases/internal": left(8)}[path]
					told[program.Name] = append(told[program.Name],
						"nobody's "+path+": "+askWith(t, http.MethodPost, url+path, body))
				}
			}
		}
		slices.Sort(told[program.Name])
	}
	compare(t, told)
}

// What is renewed through a follower outlives its leader; what is not, does not.
func TestALeaseKeptAliveThroughAFollowerOutlivesTheLeader(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	leader := group.Leader()
	connection := followerOf(group, leader).Dial()
	ctx := context20s(t)
	const kept, left = 1, 2
	for _, id := range []int64{kept, left} {
		_, err := pb.NewLeaseClient(connection).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 4})
		if err != nil {
			t.Fatal(err)
		}
		_, err = pb.NewKVClient(connection).Put(ctx,
			&pb.PutRequest{Key: []byte(fmt.Sprint("lease", id)), Value: []byte("x"), Lease: id})
		if err != nil {
			t.Fatal(err)
		}
	}
	leader.Kill()
	for isGone := false; !isGone; {
		if ttl, err := keepAlive(ctx, connection, kept); err != nil || ttl != 4 {
			t.Fatalf("the lease has %d s: %v", ttl, err)
		}
		got, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte("lease2")})
		if ctx.Err() != nil {
			t.Fatal("the lease that nobody renews does not expire")
		}
		isGone = err == nil && len(got.Kvs) == 0
		time.Sleep(10 * pollInterval)
	}
	expect(t, connection, "lease1", "x")
	if ttl, err := keepAlive(ctx, connection, left); err != nil || ttl != 0 {
		t.Errorf("the lease that is gone has %d s: %v", ttl, err)
	}
}
