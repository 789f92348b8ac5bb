package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// grow adds one more member to a group that serves, lets it join, and promotes it if it comes as a
// learner.
func grow(t *testing.T, group *cluster.Group, program cluster.Program, asLearner bool) *cluster.Member {
	t.Helper()
	by := group.Members[0].Dial()
	joiner := group.Joiner(program)
	joiner.AddArgs(shortLog...)
	url := group.PeerURL(len(group.Members) - 1)
	added, err := whileUnhealthy(func() (*pb.MemberAddResponse, error) {
		return pb.NewClusterClient(by).MemberAdd(context20s(t),
			&pb.MemberAddRequest{PeerURLs: []string{url}, IsLearner: asLearner}, grpc.WaitForReady(true))
	})
	if err != nil {
		t.Fatal(err)
	}
	if !asLearner {
		if err := joiner.Run(); err != nil {
			t.Fatal(err)
		}
		return joiner
	}
	if err := joiner.Launch(); err != nil {
		t.Fatal(err)
	}
	for ctx := context20s(t); ; time.Sleep(pollInterval) {
		_, err := pb.NewClusterClient(by).MemberPromote(ctx,
			&pb.MemberPromoteRequest{ID: added.Member.ID}, grpc.WaitForReady(true))
		if err == nil {
			break
		}
		// Until it has caught up, and while the leader counts who is connected.
		if ctx.Err() != nil {
			t.Fatalf("the learner is not promoted: %v", err)
		}
	}
	if err := joiner.WaitReady(); err != nil {
		t.Fatal(err)
	}
	return joiner
}

// shrink removes a member, which stops by itself, and waits until the others have a leader.
func shrink(t *testing.T, group *cluster.Group, member *cluster.Member) {
	t.Helper()
	id := idOf(t, group, member)
	group.Forget(member)
	api := pb.NewClusterClient(group.Members[0].Dial())
	for ctx := context20s(t); ; {
		// A proposal that meets an election can get lost, which its deadline tells, or the member.
		try, cancel := context.WithTimeout(ctx, callTimeout/4)
		_, err := whileUnhealthy(func() (*pb.MemberRemoveResponse, error) {
			return api.MemberRemove(try, &pb.MemberRemoveRequest{ID: id}, grpc.WaitForReady(true))
		})
		cancel()
		if err == nil || status.Code(err) == codes.NotFound {
			break
		}
		lost := status.Code(err) == codes.DeadlineExceeded || status.Code(err) == codes.Unavailable
		if !lost || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if member.Alive() {
		if _, err := member.WaitExit(callTimeout); err != nil {
			t.Fatal(err)
		}
	}
	// If it was the leader, what the others forward to it is lost until they have elected another.
	group.Leader()
}

// idOf finds a member, which may not run, by its name.
func idOf(t *testing.T, group *cluster.Group, member *cluster.Member) uint64 {
	t.Helper()
	for _, other := range group.Members {
		if other == member || !other.Alive() {
			continue
		}
		list, err := pb.NewClusterClient(other.Dial()).MemberList(context20s(t),
			&pb.MemberListRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		for _, listed := range list.Members {
			if listed.Name == member.Name {
				return listed.ID
			}
		}
	}
	t.Fatalf("nobody knows %s", member.Name)
	return 0
}

// filled starts three members whose log does not reach back to the beginning.
func filled(t *testing.T, program cluster.Program) *cluster.Group {
	t.Helper()
	group := cluster.NewGroup(t, cluster.Three(program)...)
	group.AddArgs(shortLog...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	connection := group.Members[0].Dial()
	for i := range 300 {
		put(t, connection, fmt.Sprint("key", i%50), fmt.Sprint(i))
	}
	cutLogs(t, group, group.Members...)
	return group
}

// A member joins three that run, of either program, as a voter or as a learner that is promoted; it
// begins with a snapshot, serves, and leads. In the end it goes again.
func TestAMemberJoinsARunningCluster(t *testing.T) {
	t.Parallel()
	for _, others := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		t.Run("of "+others.Name, func(t *testing.T) {
			group := filled(t, others)
			for _, asLearner := range []bool{true, false} {
				joiner := grow(t, group, cluster.Subject(t), asLearner)
				expect(t, joiner.Dial(), "key49", "299")
				put(t, joiner.Dial(), "by", "the joiner")
				sameHashes(t, group)
				if installs(joiner) == 0 {
					t.Error("the member has joined without a snapshot")
				}
				lead(t, group, joiner)
				put(t, group.Members[0].Dial(), "under", "the joiner")
				sameHashes(t, group)
				// What it has is there again after a kill.
				joiner.Kill()
				if err := joiner.Run(); err != nil {
					t.Fatal(err)
				}
				expect(t, joiner.Dial(), "under", "the joiner")
				shrink(t, group, joiner)
			}
		})
	}
}

// A cluster whose log is whole is joined by it alone, also by a member that dies on the way.
func TestAMemberJoinsByTheLogAlone(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Subject(t))
	put(t, group.Dial(), "key", "value")
	joiner := group.Joiner(cluster.Subject(t))
	joiner.AddArgs("--log-level=info")
	_, err := pb.NewClusterClient(group.Members[0].Dial()).MemberAdd(context20s(t),
		&pb.MemberAddRequest{PeerURLs: []string{group.PeerURL(1)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, station := range []string{"made a new member", "newRaft", "starting an etcd server"} {
		before := strings.Count(joiner.Log(), station)
		if err := joiner.Launch(); err != nil {
			t.Fatal(err)
		}
		await(t, fmt.Sprintf("the member never says %q", station), func() bool {
			return strings.Count(joiner.Log(), station) != before
		})
		joiner.Kill()
	}
	if err := joiner.Run(); err != nil {
		t.Fatal(err)
	}
	expect(t, joiner.Dial(), "key", "value")
	sameHashes(t, group)
}

// A member that has lost its data is replaced: the old one is removed, and a new one joins. It cannot
// come back by itself, since it would vote again where it has voted.
func TestAWipedMemberIsReplaced(t *testing.T) {
	t.Parallel()
	refusals := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := filled(t, program)
		wiped := group.Members[1]
		wiped.Kill()
		if err := os.RemoveAll(wiped.DataDir); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("%x", idOf(t, group, wiped))
		refusals[program.Name] = []string{strings.ReplaceAll(refusal(t, wiped), id, "id")}
		if program.Name != cluster.Subject(t).Name {
			continue
		}
		shrink(t, group, wiped)
		joiner := grow(t, group, program, false)
		expect(t, joiner.Dial(), "key49", "299")
		sameHashes(t, group)
	}
	compare(t, refusals)
}

// Who asks for another cluster than the one that runs is refused in etcd's words.
func TestAMemberThatHasNoPlaceIsRefused(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, program)
		first := group.Members[0]
		header := read(t, first).Header
		id := header.MemberId
		port := regexp.MustCompile(`127\.0\.0\.1:\d+`)
		name := func(text string) string {
			text = strings.ReplaceAll(text, fmt.Sprintf("%x", id), "id")
			text = strings.ReplaceAll(text, fmt.Sprintf("%x", header.ClusterId), "cluster")
			return port.ReplaceAllString(text, "address")
		}
		note := func(what string, args ...string) {
			joiner := group.Joiner(program)
			joiner.AddArgs(args...)
			told[program.Name] = append(told[program.Name], what+": "+name(refusal(t, joiner)))
			group.Forget(joiner)
		}
		self := func(i int) string { return "http://" + fmt.Sprintf("127.0.0.1:%d", 1+i) }
		note("not added")
		note("alone", "--initial-cluster=member1="+self(1), "--initial-advertise-peer-urls="+self(1))
		note("not named", "--initial-cluster=member0="+group.PeerURL(0))
		note("nobody there", "--initial-cluster=member1="+self(1)+",member0="+self(2))
		_, err := pb.NewClusterClient(first.Dial()).MemberAdd(context20s(t),
			&pb.MemberAddRequest{PeerURLs: []string{self(3)}, IsLearner: true})
		if err != nil {
			t.Fatal(err)
		}
		told[program.Name] = append(told[program.Name],
			fmt.Sprint("elsewhere: ", elsewhere.FindString(refusal(t, group.Joiner(program)))))
	}
	compare(t, told)
}

// The addresses of the last comparison depend on the order of ids.
var elsewhere = regexp.MustCompile(`PeerURLs: no match found for existing member|last resolver error \(resolved urls: `)

// refusal starts a member that has to end by itself, and returns why.
func refusal(t *testing.T, member *cluster.Member) string {
	t.Helper()
	if err := member.Launch(); err != nil {
		t.Fatal(err)
	}
	if _, err := member.WaitExit(2 * callTimeout); err != nil {
		t.Fatalf("%v:\n%s", err, member.Log())
	}
	var last string
	for _, line := range strings.Split(member.Log(), "\n") {
		var entry struct{ Level, Error string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "fatal" {
			last = entry.Error
		}
	}
	return last
}
