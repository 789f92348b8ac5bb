package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
)

// A leader that is told to stop lets another one lead first: whoever writes through the others does
// not notice, and no election has to time out.
func TestALeaderThatStopsHandsOver(t *testing.T) {
	t.Parallel()
	subject, etcd := cluster.Subject(t), cluster.Reference(t)
	for name, programs := range map[string][]cluster.Program{
		"alone": cluster.Three(subject),
		// The next leader may be of the other kind.
		"mixed": {subject, etcd, etcd},
	} {
		t.Run(name, func(t *testing.T) { handOver(t, cluster.NewGroup(t, programs...)) })
	}
}

func handOver(t *testing.T, group *cluster.Group) {
	// An election would show: it takes longer than a client waits below.
	group.AddArgs("--log-level=info", "--heartbeat-interval=500", "--election-timeout=5000")
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	leader := group.Members[0]
	lead(t, group, leader)
	connection := followerOf(group, leader).Dial()
	put(t, connection, "before", "x")

	stop, done := context.WithCancel(t.Context())
	writing := make(chan error, 1)
	go func() {
		for i := 0; stop.Err() == nil; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			_, err := pb.NewKVClient(connection).Put(ctx,
				&pb.PutRequest{Key: []byte(fmt.Sprint("key", i))}, grpc.WaitForReady(true))
			cancel()
			if err != nil {
				writing <- fmt.Errorf("put %d: %w", i, err)
				return
			}
		}
		writing <- nil
	}()
	stopped := leader.Stop()
	put(t, connection, "after", "x")
	done()
	if err := <-writing; err != nil {
		t.Error(err)
	}
	if stopped != nil {
		t.Error(stopped)
	}
	log := leader.Log()
	started, finished := strings.Index(log, "leadership transfer starting"),
		strings.Index(log, "leadership transfer finished")
	if started < 0 || finished < started || strings.Contains(log, "leadership transfer failed") {
		t.Errorf("the log does not tell of a transfer:\n%s", log)
	}
	if next := group.Leader(); next == leader {
		t.Error("nobody else leads")
	}
}
