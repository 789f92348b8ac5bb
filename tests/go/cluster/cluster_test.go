// Package cluster tests clusters of several members: of Trilith alone, and mixed with etcd.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
)

const (
	// Longer than an election and the timeout of a request.
	callTimeout  = 20 * time.Second
	pollInterval = 10 * time.Millisecond
)

func context20s(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return ctx
}

// await waits until something holds; what says what is missing when it never does.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for ctx := context20s(t); !holds(); time.Sleep(pollInterval) {
		if ctx.Err() != nil {
			t.Fatal(what)
		}
	}
}

// sameHashes holds the data of all members that run against each other.
func sameHashes(t *testing.T, group *cluster.Group) {
	t.Helper()
	if err := group.SameHashes(context20s(t)); err != nil {
		t.Fatal(err)
	}
}

// put writes until it is acknowledged: a call that meets an election may fail.
func put(t *testing.T, connection *grpc.ClientConn, key, value string) {
	t.Helper()
	ctx := context20s(t)
	for {
		_, err := pb.NewKVClient(connection).Put(ctx,
			&pb.PutRequest{Key: []byte(key), Value: []byte(value)}, grpc.WaitForReady(true))
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("put %s: %v", key, err)
		}
		time.Sleep(pollInterval)
	}
}

func read(t *testing.T, member *cluster.Member) *pb.RangeResponse {
	t.Helper()
	got, err := pb.NewKVClient(member.Dial()).Range(context20s(t), &pb.RangeRequest{Key: []byte("x")},
		grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func expect(t *testing.T, connection *grpc.ClientConn, key, value string) {
	t.Helper()
	got, err := pb.NewKVClient(connection).Range(context20s(t),
		&pb.RangeRequest{Key: []byte(key)}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		t.Fatalf("%s is %v, not %q", key, got.Kvs, value)
	}
}

func etcdctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(cluster.Tool(t, "etcdctl"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("etcdctl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Every member serves writes and reads, and what is written through one is read through another.
func TestEveryMemberServes(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	group.Leader()
	for i, member := range group.Members {
		put(t, member.Dial(), fmt.Sprint("key", i), fmt.Sprint("value", i))
		for _, other := range group.Members {
			expect(t, other.Dial(), fmt.Sprint("key", i), fmt.Sprint("value", i))
		}
	}
	sameHashes(t, group)
}

func TestStockToolsSeeTheCluster(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	group.Leader()
	one := "--endpoints=" + group.Members[0].Client
	list := etcdctl(t, one, "member", "list")
	for i, member := range group.Members {
		want := fmt.Sprintf(", started, member%d, http://127.0.0.1:", i)
		if !strings.Contains(list, want) || !strings.Contains(list, "http://"+member.Client) {
			t.Errorf("the list of members lacks member %d:\n%s", i, list)
		}
	}
	var statuses []struct {
		Status struct {
			Header struct {
				Member uint64 `json:"member_id"`
			} `json:"header"`
			Leader uint64 `json:"leader"`
		}
	}
	out := etcdctl(t, one, "endpoint", "status", "--cluster", "-w", "json")
	if err := json.Unmarshal([]byte(out), &statuses); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	leaders := 0
	for _, status := range statuses {
		if status.Status.Header.Member == status.Status.Leader {
			leaders++
		}
	}
	if len(statuses) != 3 || leaders != 1 {
		t.Errorf("%d members and %d leaders: %s", len(statuses), leaders, out)
	}
	health := etcdctl(t, one, "endpoint", "health", "--cluster")
	if strings.Count(health, "is healthy") != 3 {
		t.Errorf("not all are healthy:\n%s", health)
	}
}

// A majority goes on without the third member, and that one catches up from the log.
func TestAMajorityGoesOnAndTheThirdCatchesUp(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	leader := group.Leader()
	connection := group.Dial()
	put(t, connection, "before", "x")
	leader.Kill()
	for i := range 50 {
		put(t, connection, fmt.Sprint("without", i), "x")
	}
	if err := leader.Run(); err != nil {
		t.Fatal(err)
	}
	expect(t, leader.Dial(), "without49", "x")
	sameHashes(t, group)
}

// What is asked of a member on its peer URL is answered as etcd answers it.
func TestThePeerURLAnswersAsEtcd(t *testing.T) {
	t.Parallel()
	answers := map[string][]string{}
	programs := []cluster.Program{cluster.Reference(t), cluster.Subject(t)}
	for i, program := range programs {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		awaitVersion(t, group.PeerURL(0), "3.7.0")
		// etcd brings its storage to the version of the cluster some time after.
		await(t, program.Name+" does not bring its storage to the cluster's version", func() bool {
			answer := ask(t, http.MethodGet, group.PeerURL(0)+"/version")
			return strings.Contains(answer, `"storage":"3.7.0"`)
		})
		for _, path := range []string{
			"/", "/unknown", "/raft", "/raft/stream/message/1", "/raft/stream/other/1", "/version",
			"/health", "/metrics",
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				name := method + " " + path
				url := group.PeerURL(0) + path
				answers[name] = append(answers[name], ask(t, method, url))
				if i == 1 && answers[name][0] != answers[name][1] {
					t.Errorf("%s: etcd %q, %s %q", name, answers[name][0], program.Name,
						answers[name][1])
				}
			}
		}
	}
}

func ask(t *testing.T, method, url string) string {
	t.Helper()
	return askWith(t, method, url, nil)
}

func askWith(t *testing.T, method, url string, question []byte) string {
	t.Helper()
	request, err := http.NewRequestWithContext(context20s(t), method, url, bytes.NewReader(question))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s allow=%s type=%s", answer.StatusCode, body,
		answer.Header.Get("Allow"), answer.Header.Get("Content-Type"))
}
