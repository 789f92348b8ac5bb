package snapshot

import (
	"context"
	"fmt"
	"math/rand"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"trilith.dev/tests/internal/cluster"
)

// A kill in the middle of a snapshot loses nothing that was acknowledged, and the next one is whole.
func TestAKillDuringASnapshotLosesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	seed := int64(cluster.EnvInt(t, "CRASH_SEED", int(time.Now().UnixNano()%1_000_000)))
	rounds := 4
	if cluster.Soak() {
		rounds = 50
	}
	rounds = cluster.EnvInt(t, "CRASH_ROUNDS", rounds)
	t.Logf("CRASH_SEED=%d CRASH_ROUNDS=%d", seed, rounds)
	random := rand.New(rand.NewSource(seed))
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	fill(t, ctx, connect(t, member), 40)
	acknowledged := 0
	for range rounds {
		stream, err := pb.NewMaintenanceClient(member.Dial()).Snapshot(ctx, &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		client := connect(t, member)
		for range random.Intn(200) {
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			acknowledged++
			putNumbered(t, ctx, client, acknowledged)
		}
		member.Kill()
		if err := member.Run(); err != nil {
			t.Fatal(err)
		}
		client = connect(t, member)
		found, err := client.Get(ctx, "number ", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		if found.Count != int64(acknowledged) {
			t.Fatalf("%d of %d acknowledged puts are left", found.Count, acknowledged)
		}
		path := save(t, member)
		if status := statusOf(t, path); status.Revision != int64(41+acknowledged) {
			t.Fatalf("the snapshot is at %d after %d puts", status.Revision, 40+acknowledged)
		}
		contentOf(t, path)
	}
}

func putNumbered(t testing.TB, ctx context.Context, client *clientv3.Client, number int) {
	t.Helper()
	if _, err := client.Put(ctx, fmt.Sprintf("number %d", number), "x"); err != nil {
		t.Fatal(err)
	}
}
