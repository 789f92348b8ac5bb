package snapshot

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"trilith.dev/tests/internal/cluster"
)

// twins are a member that is killed again and again, and an etcd that is not: both get the same
// operations, so both have to answer alike.
type twins struct {
	t         *testing.T
	ctx       context.Context
	subject   *cluster.Member
	reference *clientv3.Client
	random    *rand.Rand
	changes   int
}

func (w *twins) both(operate func(*clientv3.Client) error) {
	w.t.Helper()
	for _, client := range []*clientv3.Client{connect(w.t, w.subject), w.reference} {
		if err := operate(client); err != nil {
			w.t.Fatal(err)
		}
	}
}

// change overwrites some of a few hundred keys and deletes others, in transactions.
func (w *twins) change(transactions int) {
	for range transactions {
		var operations []clientv3.Op
		for number := range 50 {
			w.changes++
			key := fmt.Sprintf("key %03d", (w.changes*7+number*13)%400)
			if number%10 == 3 {
				operations = append(operations, clientv3.OpDelete("gone "+key))
			} else {
				value := strings.Repeat(fmt.Sprint(w.changes), 20)
				operations = append(operations, clientv3.OpPut(fmt.Sprint(number, key), value))
			}
		}
		w.both(func(client *clientv3.Client) error {
			_, err := client.Txn(w.ctx).Then(operations...).Commit()
			return err
		})
	}
}

// same compares all that both have kept.
func (w *twins) same() {
	w.t.Helper()
	var revisions, counts []int64
	var hashes []uint32
	w.both(func(client *clientv3.Client) error {
		all, err := client.Get(w.ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		revision := all.Header.Revision
		hash, err := pb.NewMaintenanceClient(client.ActiveConnection()).HashKV(w.ctx,
			&pb.HashKVRequest{Revision: revision})
		if err != nil {
			return err
		}
		revisions = append(revisions, revision)
		counts, hashes = append(counts, all.Count), append(hashes, hash.Hash)
		return nil
	})
	if revisions[0] != revisions[1] || counts[0] != counts[1] || hashes[0] != hashes[1] {
		w.t.Fatalf("revisions %v, keys %v, hashes %x", revisions, counts, hashes)
	}
}

// upkeep is what is killed, by name.
var upkeep = map[string]func(context.Context, *clientv3.Client, int64) error{
	"compaction": func(ctx context.Context, client *clientv3.Client, revision int64) error {
		_, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical())
		return err
	},
	"defragmentation": func(ctx context.Context, client *clientv3.Client, _ int64) error {
		_, err := pb.NewMaintenanceClient(client.ActiveConnection()).Defragment(ctx,
			&pb.DefragmentRequest{})
		return err
	},
}

// A kill while old revisions are deleted, or tables rewritten, loses nothing and leaves nothing
// half done.
func TestAKillDuringUpkeepLosesNothing(t *testing.T) {
	t.Parallel()
	for name, job := range upkeep {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			seed := int64(cluster.EnvInt(t, "CRASH_SEED", int(time.Now().UnixNano()%1_000_000)))
			rounds := 3
			if cluster.Soak() {
				rounds = 50
			}
			rounds = cluster.EnvInt(t, "CRASH_ROUNDS", rounds)
			t.Logf("CRASH_SEED=%d CRASH_ROUNDS=%d", seed, rounds)
			w := &twins{
				t: t, ctx: ctx, random: rand.New(rand.NewSource(seed)),
				subject: cluster.Start(t, cluster.Subject(t), cluster.Options{
					// A compaction of many small steps is more often in the middle of one.
					Args: []string{"--compaction-batch-limit=20", "--compaction-sleep-interval=1ms"},
				}),
				reference: connect(t, cluster.Start(t, cluster.Reference(t), cluster.Options{})),
			}
			w.change(20)
			for range rounds {
				w.change(10)
				client := connect(t, w.subject)
				now, err := client.Get(ctx, "x")
				if err != nil {
					t.Fatal(err)
				}
				revision := now.Header.Revision - 2
				// The compaction itself has to be in both before anything else is.
				if name == "compaction" {
					w.both(func(client *clientv3.Client) error {
						_, err := client.Compact(ctx, revision)
						return err
					})
				} else {
					go func() { _ = job(ctx, client, revision) }()
				}
				w.change(w.random.Intn(6))
				w.subject.Kill()
				if err := w.subject.Run(); err != nil {
					t.Fatal(err)
				}
				w.same()
			}
			if err := job(ctx, connect(t, w.subject), w.lastRevision()); err != nil {
				t.Fatal(err)
			}
			if name == "compaction" {
				if err := job(ctx, w.reference, w.lastRevision()); err != nil {
					t.Fatal(err)
				}
			}
			w.change(1)
			w.same()
			if !cluster.SubjectIsEtcd() {
				if err := w.subject.Stop(); err != nil {
					t.Fatal(err)
				}
				sound := runPath(t, w.subject.Program.Path, "check", w.subject.DataDir)
				if sound.code != 0 {
					t.Errorf("%+v", sound)
				}
			}
		})
	}
}

func (w *twins) lastRevision() int64 {
	now, err := w.reference.Get(w.ctx, "x")
	if err != nil {
		w.t.Fatal(err)
	}
	return now.Header.Revision
}

// What etcd had comes back to etcd, and once more to us: the same keys, revisions, leases, alarms.
func TestTheWayThereAndBackKeepsEverything(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	etcd, before, compacted := etcdWithHistory(t, ctx)
	etcd.Kill()
	ours := takeOver(t, ctx, etcd.DataDir, before, compacted)
	path := save(t, ours)
	contentOf(t, path)
	folder := restore(t, path)
	back := cluster.Start(t, cluster.Reference(t), cluster.Options{DataDir: folder})
	sameView(t, before, view(t, ctx, connect(t, back), compacted))
	contentOf(t, save(t, back))
	if err := back.Stop(); err != nil {
		t.Fatal(err)
	}
	takeOver(t, ctx, folder, before, compacted)
}
