package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// changes makes changes of a cluster's members and notes what a client is told about each.
type changes struct {
	t    *testing.T
	ctx  context.Context
	told []string
}

type listed interface{ GetMembers() []*pb.Member }

// note keeps an answer without what differs from cluster to cluster.
func (c *changes) note(what string, answer listed, err error) {
	c.t.Helper()
	if err != nil {
		c.told = append(c.told, fmt.Sprintf("%s: %s %s", what, status.Code(err), status.Convert(err).Message()))
		return
	}
	var members []string
	for _, member := range answer.GetMembers() {
		members = append(members, fmt.Sprintf("%s learner=%v clients=%d peers=%v",
			member.Name, member.IsLearner, len(member.ClientURLs), spares(member.PeerURLs)))
	}
	slices.Sort(members)
	c.told = append(c.told, what+": "+strings.Join(members, "; "))
}

// spares leaves the URLs of the members that run out: they are other ones in each cluster.
func spares(urls []string) []string {
	return slices.DeleteFunc(slices.Clone(urls), func(url string) bool {
		return !strings.HasPrefix(url, "http://10.255.")
	})
}

// whileUnhealthy asks again until the members have known each other for as long as etcd wants.
func whileUnhealthy[T any](ask func() (T, error)) (T, error) {
	for {
		answer, err := ask()
		if err == nil || !strings.Contains(err.Error(), "unhealthy cluster") {
			return answer, err
		}
		<-time.After(100 * time.Millisecond)
	}
}

func (c *changes) make(group *cluster.Group) {
	leader := group.Leader()
	followers := slices.DeleteFunc(slices.Clone(group.Members), func(member *cluster.Member) bool {
		return member == leader
	})
	byLeader := pb.NewClusterClient(leader.Dial())
	byFollower := pb.NewClusterClient(followers[0].Dial())
	add := func(urls ...string) *pb.MemberAddRequest { return &pb.MemberAddRequest{PeerURLs: urls} }

	bad, err := byLeader.MemberAdd(c.ctx, add("http://no-port"))
	c.note("add a bad URL", bad, err)
	none, err := byLeader.MemberAdd(c.ctx, add())
	c.note("add no URL", none, err)
	learner := add("http://10.255.0.2:2", "http://10.255.0.1:1")
	learner.IsLearner = true
	added, err := whileUnhealthy(func() (*pb.MemberAddResponse, error) {
		return byFollower.MemberAdd(c.ctx, learner)
	})
	c.note("add a learner", added, err)
	if err != nil {
		c.t.Fatal(err)
	}
	c.told = append(c.told, fmt.Sprint("answered with it: ", spares(added.Member.PeerURLs)))
	second := add("http://10.255.0.3:3")
	second.IsLearner = true
	more, err := whileUnhealthy(func() (*pb.MemberAddResponse, error) {
		return byLeader.MemberAdd(c.ctx, second)
	})
	c.note("add a second learner", more, err)
	again, err := byLeader.MemberAdd(c.ctx, add("http://10.255.0.1:1"))
	c.note("add a URL that is taken", again, err)

	for name, by := range map[string]pb.ClusterClient{"leader": byLeader, "follower": byFollower} {
		promoted, err := by.MemberPromote(c.ctx, &pb.MemberPromoteRequest{ID: added.Member.ID})
		c.note("promote by the "+name, promoted, err)
		promoted, err = by.MemberPromote(c.ctx, &pb.MemberPromoteRequest{ID: 1})
		c.note("promote nobody by the "+name, promoted, err)
	}
	list, err := byLeader.MemberList(c.ctx, &pb.MemberListRequest{Linearizable: true})
	c.note("list", list, err)
	voter, err := byLeader.MemberPromote(c.ctx, &pb.MemberPromoteRequest{ID: list.Header.MemberId})
	c.note("promote a voter", voter, err)

	moved, err := byFollower.MemberUpdate(c.ctx, &pb.MemberUpdateRequest{
		ID: added.Member.ID, PeerURLs: []string{"http://10.255.0.9:9"},
	})
	c.note("update", moved, err)
	moved, err = byFollower.MemberUpdate(c.ctx, &pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{"http://10.255.0.9:9"}})
	c.note("update nobody", moved, err)
	removed, err := byFollower.MemberRemove(c.ctx, &pb.MemberRemoveRequest{ID: added.Member.ID})
	c.note("remove the learner", removed, err)
	removed, err = byLeader.MemberRemove(c.ctx, &pb.MemberRemoveRequest{ID: added.Member.ID})
	c.note("remove it again", removed, err)
	removed, err = byLeader.MemberRemove(c.ctx, &pb.MemberRemoveRequest{ID: 1})
	c.note("remove nobody", removed, err)
	slices.Sort(c.told)
}

func TestMembershipChangesAreEtcds(t *testing.T) {
	t.Parallel()
	var told [2][]string
	for at, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c := changes{t: t, ctx: ctx}
		c.make(cluster.StartGroup(t, cluster.Three(program)...))
		told[at] = c.told
	}
	if difference := gocmp.Diff(told[0], told[1]); difference != "" {
		t.Errorf("clients are told something else:\n%s", difference)
	}
}

// A member that is removed stops by itself and stays out; the others go on.
func TestARemovedMemberStopsAndStaysOut(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	leader := group.Leader()
	var gone *cluster.Member
	for _, member := range group.Members {
		if member != leader {
			gone = member
		}
	}
	list, err := pb.NewClusterClient(gone.Dial()).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = whileUnhealthy(func() (*pb.MemberRemoveResponse, error) {
		return pb.NewClusterClient(leader.Dial()).MemberRemove(ctx,
			&pb.MemberRemoveRequest{ID: list.Header.MemberId}, grpc.WaitForReady(true))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, life := range []string{"running", "started again"} {
		if _, err := gone.WaitExit(30 * time.Second); err != nil {
			t.Fatalf("%s: %v", life, err)
		}
		if life == "running" {
			if err := gone.Launch(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(t, leader.Dial(), "still", "here")
	left, err := pb.NewClusterClient(leader.Dial()).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil || len(left.Members) != 2 {
		t.Errorf("%v %v", left, err)
	}
}

// A member that joins asks who the members are, and finds its own id and its cluster's.
func TestMembersAreListedToOneThatJoins(t *testing.T) {
	t.Parallel()
	var listed [2]string
	for at, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		list, err := pb.NewClusterClient(group.Dial()).MemberList(context20s(t), &pb.MemberListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.Get(group.PeerURL(0) + "/members")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("%x", list.Header.ClusterId)
		text := strings.ReplaceAll(string(body)+answer.Header.Get("X-Etcd-Cluster-ID"), id, "cluster")
		for _, member := range list.Members {
			text = strings.ReplaceAll(text, fmt.Sprint(member.ID), "id of "+member.Name)
			text = strings.ReplaceAll(text, member.PeerURLs[0], "peer")
			text = strings.ReplaceAll(text, member.ClientURLs[0], "client")
		}
		// The order is that of the ids, which are other ones in each cluster.
		lines := strings.Split(text, "},{")
		if len(lines) != 3 || !strings.HasSuffix(text, "]\ncluster") {
			t.Errorf("%s: %s", program.Name, text)
		}
		text = strings.NewReplacer("member0", "name", "member1", "name", "member2", "name").Replace(text)
		listed[at] = fmt.Sprint(answer.StatusCode, answer.Header.Get("Content-Type"), text)
	}
	if listed[0] != listed[1] {
		t.Errorf("etcd lists\n%s\nTrilith\n%s", listed[0], listed[1])
	}
}

// A member of etcd's joins a cluster of ours, which sends it the whole state or the log.
func TestAMemberOfEtcdsJoins(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	put(t, group.Dial(), "before", "it joins")
	api := pb.NewClusterClient(group.Leader().Dial())
	joiner := group.Joiner(cluster.Reference(t))
	_, err := whileUnhealthy(func() (*pb.MemberAddResponse, error) {
		return api.MemberAdd(context20s(t), &pb.MemberAddRequest{PeerURLs: []string{group.PeerURL(3)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := joiner.Run(); err != nil {
		t.Fatal(err)
	}
	expect(t, joiner.Dial(), "before", "it joins")
	sameHashes(t, group)
}
