package cluster

import (
	"context"
	"fmt"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// A cluster of etcd's is replaced member by member by this program, and back, while clients write. No
// operation fails but by what a client tries again elsewhere; the data are the same on all members at
// every step, and the members that compare them by themselves find nothing.
func TestAllMembersAreReplacedOneByOneUnderLoad(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	group := cluster.NewGroup(t, cluster.Three(etcd)...)
	group.AddArgs(shortLog...)
	group.AddArgs("--corrupt-check-time=1s")
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	load := startLoad(t, group)
	for _, program := range []cluster.Program{subject, etcd} {
		for range 3 {
			old := group.Members[0]
			joiner := grow(t, group, program, true)
			same(t, group)
			load.use(group)
			lead(t, group, joiner)
			load.advance(50)
			if !old.Alive() {
				t.Fatal("the member has ended before it was removed")
			}
			load.use(without(group, old))
			shrink(t, group, old)
			load.advance(50)
			same(t, group)
		}
	}
	load.stop()
	for _, member := range group.Members {
		got, err := pb.NewKVClient(member.Dial()).Range(context20s(t),
			&pb.RangeRequest{Key: []byte("load/"), RangeEnd: []byte("load0")})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, kv := range got.Kvs {
			found[string(kv.Key)] = string(kv.Value)
		}
		for key, value := range load.values {
			// One more may have been written that nobody waited for.
			if last, err := strconv.Atoi(found[key]); err != nil || last < value || last > value+1 {
				t.Errorf("%s has %q for %s, and %d was acknowledged", member.Name, found[key], key, value)
			}
		}
	}
	alarms, err := pb.NewMaintenanceClient(group.Members[0].Dial()).Alarm(context20s(t), &pb.AlarmRequest{})
	if err != nil || len(alarms.Alarms) != 0 {
		t.Errorf("alarms: %v (%v)", alarms, err)
	}
	t.Logf("%d writes, %d of them tried again", load.writes, load.retries)
}

func same(t *testing.T, group *cluster.Group) {
	t.Helper()
	sameHashes(t, group)
	for _, member := range group.Members {
		if log := member.Log(); strings.Contains(log, "found data inconsistency") || strings.Contains(log, "CORRUPT") {
			t.Fatalf("%s has found a difference:\n%s", member.Name, log)
		}
	}
}

// without is the group as clients see it after a member has gone.
func without(group *cluster.Group, gone *cluster.Member) *cluster.Group {
	rest := *group
	rest.Members = nil
	for _, member := range group.Members {
		if member != gone {
			rest.Members = append(rest.Members, member)
		}
	}
	return &rest
}

// load is clients that write through random members, one key each, again and again.
type load struct {
	t       *testing.T
	mutex   sync.Mutex
	members []pb.KVClient
	// The last acknowledged value of each key.
	values          map[string]int
	writes, retries int
	changed         *sync.Cond
	cancel          context.CancelFunc
	done            sync.WaitGroup
}

const loadClients = 4

func startLoad(t *testing.T, group *cluster.Group) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{t: t, values: map[string]int{}, cancel: cancel}
	l.changed = sync.NewCond(&l.mutex)
	l.use(group)
	for client := range loadClients {
		l.done.Add(1)
		go l.run(ctx, client)
	}
	return l
}

// use lets the clients go to the members of the group from now on.
func (l *load) use(group *cluster.Group) {
	var members []pb.KVClient
	for _, member := range group.Members {
		members = append(members, pb.NewKVClient(member.Dial()))
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.members = members
}

func (l *load) run(ctx context.Context, client int) {
	defer l.done.Done()
	random := rand.New(rand.NewSource(int64(client)))
	key := fmt.Sprint("load/", client)
	for i := 0; ctx.Err() == nil; i++ {
		retries, err := l.put(ctx, random, key, fmt.Sprint(i))
		if ctx.Err() != nil {
			return
		}
		l.mutex.Lock()
		if err != nil {
			l.t.Errorf("a write failed: %v", err)
		} else {
			l.writes++
			l.retries += retries
			l.values[key] = i
		}
		l.changed.Broadcast()
		l.mutex.Unlock()
		if err != nil {
			return
		}
	}
}

// put tries until a write is acknowledged, as a client's library does.
func (l *load) put(ctx context.Context, random *rand.Rand, key, value string) (retries int, err error) {
	deadline := time.Now().Add(callTimeout)
	for ; ; retries++ {
		l.mutex.Lock()
		kv := l.members[random.Intn(len(l.members))]
		l.mutex.Unlock()
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err = kv.Put(call, &pb.PutRequest{Key: []byte(key), Value: []byte(value)}, grpc.WaitForReady(false))
		cancel()
		if err == nil || !isRetried(err) || time.Now().After(deadline) {
			return retries, err
		}
		time.Sleep(pollInterval)
	}
}

// isRetried tells whether an error is one that a change of the leader costs.
func isRetried(err error) bool {
	// What etcd's leader says while it hands over, which is not wrapped into an error of the API.
	dropped := status.Convert(err).Message() == "raft proposal dropped"
	return dropped || status.Code(err) == codes.Unavailable
}

// advance waits until so many more writes are acknowledged.
func (l *load) advance(count int) {
	l.t.Helper()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for target := l.writes + count; l.writes < target; {
		if l.t.Failed() {
			l.t.FailNow()
		}
		l.changed.Wait()
	}
}

// stop ends the clients.
func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}
