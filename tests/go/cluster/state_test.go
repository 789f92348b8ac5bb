package cluster

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"trilith.dev/tests/internal/cluster"
)

// What members ask about each other's state is answered as etcd answers it.
func TestMembersAreAskedAboutTheirStateAsEtcds(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		leader := group.Leader()
		connection := leader.Dial()
		for i := range 5 {
			put(t, connection, fmt.Sprint("key", i%3), "value")
		}
		ask := func(method, path, body string) {
			for i, member := range group.Members {
				// After a linearizable read the member has all of it.
				read(t, member)
				told[program.Name] = append(told[program.Name], fmt.Sprint(method, " ", path, " ", body, ": ",
					askWith(t, method, group.PeerURL(i)+path, []byte(body))))
			}
		}
		hashes := func() {
			for _, body := range []string{
				"", "null", "{}", "[]", "junk", `{"revision":0}`, `{"revision":3}`, `{"revision":6}`,
				`{"revision":7}`, `{"revision":-1}`, `{"revision":null}`, `{"revision":"3"}`,
				`{"revision":3,"more":1}`,
			} {
				ask(http.MethodGet, "/members/hashkv", body)
			}
		}
		hashes()
		_, err := pb.NewKVClient(connection).Compact(context20s(t),
			&pb.CompactionRequest{Revision: 4, Physical: true})
		if err != nil {
			t.Fatal(err)
		}
		hashes()
		ask(http.MethodPost, "/members/hashkv", `{"revision":6}`)
		ask(http.MethodGet, "/downgrade/enabled", "")
		ask(http.MethodPost, "/downgrade/enabled", "")
		_, err = pb.NewMaintenanceClient(connection).Downgrade(context20s(t),
			&pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: "3.6"})
		if err != nil {
			t.Fatal(err)
		}
		ask(http.MethodGet, "/downgrade/enabled", "")
	}
	compare(t, told)
}

// The cluster has the version of its oldest member, and none that is there without asking all.
func TestTheClusterVersionWaitsForAllMembers(t *testing.T) {
	t.Parallel()
	subject := cluster.Subject(t)
	group := cluster.NewGroup(t, cluster.Three(subject)...)
	late := group.Members[2]
	for _, member := range group.Members[:2] {
		if err := member.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	group.LeaderAmong(group.Members[:2])
	awaitVersion(t, group.PeerURL(0), "3.0.0")
	if err := late.Launch(); err != nil {
		t.Fatal(err)
	}
	awaitVersion(t, group.PeerURL(0), "3.7.0")
}

// awaitVersion waits until the cluster has this version, as the member at a peer URL knows it.
func awaitVersion(t *testing.T, peerURL, want string) {
	t.Helper()
	version := func() string {
		answer := ask(t, http.MethodGet, peerURL+"/version")
		_, version, _ := strings.Cut(answer, `"etcdcluster":"`)
		version, _, _ = strings.Cut(version, `"`)
		return version
	}
	ctx := context20s(t)
	for seen := version(); seen != want; seen = version() {
		if !slices.Contains([]string{"not_decided", "3.0.0"}, seen) || ctx.Err() != nil {
			t.Fatalf("the version of the cluster is %q, not %q", seen, want)
		}
		time.Sleep(10 * pollInterval)
	}
}
