package stock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"trilith.dev/tests/internal/cluster"
)

// testTimeout bounds each of the tests below; a healthy run takes a few seconds.
const testTimeout = 60 * time.Second

func newClient(t *testing.T, member *cluster.Member) *clientv3.Client {
	t.Helper()
	return member.Connect(clientv3.Config{
		// The default waits for up to two minutes after a restart of the server.
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
				BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second / 5,
			}}),
		},
	})
}

func startWithClient(t *testing.T) (context.Context, *cluster.Member, *clientv3.Client) {
	t.Helper()
	t.Parallel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx, member, newClient(t, member)
}

func TestMutexLetsOneHolderInAtATime(t *testing.T) {
	ctx, _, client := startWithClient(t)
	const holders, rounds = 8, 5
	inside, most := 0, 0
	var guard sync.Mutex
	var wait sync.WaitGroup
	for range holders {
		wait.Go(func() {
			session, err := concurrency.NewSession(client, concurrency.WithTTL(30))
			if err != nil {
				t.Error(err)
				return
			}
			defer session.Close()
			mutex := concurrency.NewMutex(session, "/lock/")
			for range rounds {
				if err := mutex.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				guard.Lock()
				inside++
				most = max(most, inside)
				guard.Unlock()
				// Somebody who should not be let in gets a chance to.
				if _, err := client.Put(ctx, "held", mutex.Key()); err != nil {
					t.Error(err)
				}
				guard.Lock()
				inside--
				guard.Unlock()
				if err := mutex.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if most != 1 {
		t.Errorf("%d holders at once", most)
	}
}

func TestTryLockTellsThatTheLockIsTaken(t *testing.T) {
	ctx, _, client := startWithClient(t)
	var mutexes []*concurrency.Mutex
	for range 2 {
		session, err := concurrency.NewSession(client)
		if err != nil {
			t.Fatal(err)
		}
		mutexes = append(mutexes, concurrency.NewMutex(session, "/try/"))
	}
	if err := mutexes[0].TryLock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := mutexes[1].TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("the second lock got %v", err)
	}
	if err := mutexes[0].Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := mutexes[1].TryLock(ctx); err != nil {
		t.Error(err)
	}
}

func TestLockOfADeadSessionIsTakenOver(t *testing.T) {
	ctx, _, client := startWithClient(t)
	dead, err := concurrency.NewSession(client, concurrency.WithTTL(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := concurrency.NewMutex(dead, "/dead/").Lock(ctx); err != nil {
		t.Fatal(err)
	}
	// Without keep-alives the lease runs out, and its key with it.
	dead.Orphan()
	heir, err := concurrency.NewSession(client)
	if err != nil {
		t.Fatal(err)
	}
	if err := concurrency.NewMutex(heir, "/dead/").Lock(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestElectionPassesOn(t *testing.T) {
	ctx, _, client := startWithClient(t)
	const candidates = 4
	observer, err := concurrency.NewSession(client)
	if err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	observed := concurrency.NewElection(observer, "/elect").Observe(watching)
	var wait sync.WaitGroup
	for i := range candidates {
		wait.Go(func() {
			session, err := concurrency.NewSession(client)
			if err != nil {
				t.Error(err)
				return
			}
			defer session.Close()
			election := concurrency.NewElection(session, "/elect")
			name := strconv.Itoa(i)
			if err := election.Campaign(ctx, name); err != nil {
				t.Error(err)
				return
			}
			leader, err := election.Leader(ctx)
			if err != nil || string(leader.Kvs[0].Value) != name {
				t.Errorf("%s was elected, the leader is %v (%v)", name, leader, err)
			}
			if err := election.Resign(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	select {
	case response := <-observed:
		if len(response.Kvs) != 1 {
			t.Errorf("observed %v", response)
		}
	case <-ctx.Done():
		t.Error("no leader was observed")
	}
	wait.Wait()
}

func TestSTMTransfersKeepTheSum(t *testing.T) {
	ctx, _, client := startWithClient(t)
	const accounts, workers, transfers, initial = 5, 6, 20, 100
	for i := range accounts {
		if _, err := client.Put(ctx, fmt.Sprint("account", i), fmt.Sprint(initial)); err != nil {
			t.Fatal(err)
		}
	}
	var wait sync.WaitGroup
	for worker := range workers {
		wait.Go(func() {
			for i := range transfers {
				from := fmt.Sprint("account", (worker+i)%accounts)
				to := fmt.Sprint("account", (worker*3+i*2+1)%accounts)
				if from == to {
					continue
				}
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					a, _ := strconv.Atoi(stm.Get(from))
					b, _ := strconv.Atoi(stm.Get(to))
					stm.Put(from, fmt.Sprint(a-1))
					stm.Put(to, fmt.Sprint(b+1))
					return nil
				}, concurrency.WithIsolation(concurrency.SerializableSnapshot))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	all, err := client.Get(ctx, "account", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, kv := range all.Kvs {
		value, _ := strconv.Atoi(string(kv.Value))
		sum += value
	}
	if len(all.Kvs) != accounts || sum != accounts*initial {
		t.Errorf("%d accounts hold %d", len(all.Kvs), sum)
	}
}

func TestWatchResumesThroughRestarts(t *testing.T) {
	ctx, member, client := startWithClient(t)
	const restarts, putsBetween = 3, 20
	events := client.Watch(ctx, "key",
		clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithPrevKV())
	var revisions []int64
	for restart := range restarts + 1 {
		for i := range putsBetween {
			put, err := client.Put(ctx, fmt.Sprint("key", i%3), fmt.Sprint(restart, i))
			if err != nil {
				t.Fatal(err)
			}
			revisions = append(revisions, put.Header.Revision)
		}
		if restart == restarts {
			break
		}
		if restart%2 == 0 {
			member.Kill()
		} else if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := member.Run(); err != nil {
			t.Fatal(err)
		}
	}
	for len(revisions) > 0 {
		response, open := <-events
		if !open || response.Err() != nil {
			t.Fatalf("the watch ended: %v, with %d events to come", response.Err(), len(revisions))
		}
		for _, event := range response.Events {
			if len(revisions) == 0 || event.Kv.ModRevision != revisions[0] {
				t.Fatalf("got %v, expected the event of revision %v", event, revisions)
			}
			revisions = revisions[1:]
		}
	}
}

func TestLeaseExpiresAndTakesItsKeysAlong(t *testing.T) {
	ctx, _, client := startWithClient(t)
	lease, err := client.Grant(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	put, err := client.Put(ctx, "leased", "1", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	for response := range client.Watch(ctx, "leased", clientv3.WithRev(put.Header.Revision+1)) {
		for _, event := range response.Events {
			if event.Type != clientv3.EventTypeDelete {
				t.Fatalf("got %v", event)
			}
			if early := time.Second; time.Since(started) < early {
				t.Errorf("the lease of 2 s was gone within %v", early)
			}
			_, err := client.Revoke(ctx, lease.ID)
			if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				t.Errorf("revoking the expired lease: %v", err)
			}
			return
		}
	}
	t.Fatal("the key of the lease was not deleted")
}

func TestLeaseLivesThroughARestart(t *testing.T) {
	ctx, member, client := startWithClient(t)
	lease, err := client.Grant(ctx, 500)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, "leased", "1", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	member.Kill()
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	left, err := client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || left.GrantedTTL != 500 || left.TTL <= 400 || len(left.Keys) != 1 {
		t.Fatalf("after the restart: %+v, %v", left, err)
	}
	if _, err := client.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(ctx, "leased")
	if err != nil || got.Count != 0 {
		t.Errorf("after the revoke: %v, %v", got, err)
	}
}

func TestKeepAliveChannelRenews(t *testing.T) {
	ctx, _, client := startWithClient(t)
	lease, err := client.Grant(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	renewals, err := client.KeepAlive(ctx, lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	// Five renewals, one a second, are longer than the lease would live without them.
	for range 5 {
		select {
		case response, open := <-renewals:
			if !open || response.TTL != 3 {
				t.Fatalf("renewal: %v, %v", response, open)
			}
		case <-ctx.Done():
			t.Fatal("no renewal")
		}
	}
}

func TestNamespaceOfAFullListComesInPages(t *testing.T) {
	ctx, _, client := startWithClient(t)
	const keys, page = 250, 100
	for i := range keys {
		if _, err := client.Put(ctx, fmt.Sprintf("page/%03d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	start, end, revision, seen := "page/", clientv3.GetPrefixRangeEnd("page/"), int64(0), 0
	for more := true; more; {
		options := []clientv3.OpOption{
			clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision),
		}
		got, err := client.Get(ctx, start, options...)
		if err != nil {
			t.Fatal(err)
		}
		if int(got.Count) != keys-seen {
			t.Errorf("count is %d, %d are left", got.Count, keys-seen)
		}
		if revision == 0 {
			revision = got.Header.Revision
		}
		seen += len(got.Kvs)
		start = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
		more = got.More
		// What is written meanwhile does not show in the pages of one revision.
		if _, err := client.Put(ctx, fmt.Sprintf("page/%03d-new", seen), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if seen != keys {
		t.Errorf("%d keys in all pages", seen)
	}
}
