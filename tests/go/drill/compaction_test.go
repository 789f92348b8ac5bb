package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"trilith.dev/tests/internal/cluster"
)

// A retention of half a second in the periodic mode: a compaction of what is older, every half second.
const shortRetention = "500ms"

const pollInterval = 10 * time.Millisecond

// operator is somebody who looks after a member, and writes down what he sees of it.
type operator struct {
	t      *testing.T
	ctx    context.Context
	member *cluster.Member
	client *clientv3.Client
	seen   []string
}

// watchOver starts a member with flags.
func watchOver(t *testing.T, program cluster.Program, timeout time.Duration, flags ...string) *operator {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	o := &operator{t: t, ctx: ctx, member: cluster.Start(t, program,
		cluster.Options{Args: append([]string{"--log-level=info"}, flags...)})}
	o.connect()
	return o
}

func (o *operator) connect() {
	o.t.Helper()
	o.client = o.member.Connect(clientv3.Config{})
}

func (o *operator) note(what string, err error) {
	o.seen = append(o.seen, fmt.Sprintf("%s: %v", what, err))
}

// put overwrites a few keys, so many times, and returns the current revision.
func (o *operator) put(times, size int) int64 {
	o.t.Helper()
	var revision int64
	for number := range times {
		value := make([]byte, size)
		// Nothing that could be compressed.
		rand.New(rand.NewSource(int64(number))).Read(value)
		answer, err := o.client.Put(o.ctx, fmt.Sprint("key", number%10), string(value))
		if err != nil {
			o.t.Fatal(err)
		}
		revision = answer.Header.Revision
	}
	return revision
}

// awaitCompaction waits until a revision can be read no more.
func (o *operator) awaitCompaction(revision int64) {
	o.t.Helper()
	for {
		_, err := o.client.Get(o.ctx, "key1", clientv3.WithRev(revision))
		if errors.Is(err, rpctypes.ErrCompacted) {
			return
		}
		if err != nil {
			o.t.Fatalf("%s: revision %d is not compacted: %v", o.member.Program.Name, revision, err)
		}
		time.Sleep(pollInterval)
	}
}

// look notes what is left of the past: what a read and a watch of it are told.
func (o *operator) look(revisions ...int64) {
	o.t.Helper()
	for _, revision := range revisions {
		_, err := o.client.Get(o.ctx, "key1", clientv3.WithRev(revision))
		o.note(fmt.Sprint("get at ", revision), err)
		_, err = o.client.Compact(o.ctx, revision)
		o.note(fmt.Sprint("compact at ", revision), err)
	}
	watched := <-o.client.Watch(o.ctx, "key1", clientv3.WithRev(revisions[0]))
	o.note(fmt.Sprintf("watch from %d, canceled: %v, compacted at %d", revisions[0], watched.Canceled,
		watched.CompactRevision), watched.Err())
}

// logged is how often the member's log has a text.
func (o *operator) logged(text string) int { return strings.Count(o.member.Log(), text) }

func both(t *testing.T) []cluster.Program {
	return []cluster.Program{cluster.Reference(t), cluster.Subject(t)}
}

func compareSeen(t *testing.T, operators []*operator) {
	t.Helper()
	if difference := gocmp.Diff(operators[0].seen, operators[1].seen); difference != "" {
		t.Errorf("the subject shows something else than etcd:\n%s", difference)
	}
}

// In the periodic mode the past goes by itself once it is older than the retention, up to the last
// write; a member that starts again begins to count anew; and other times are refused alike.
func TestPeriodicAutoCompaction(t *testing.T) {
	t.Parallel()
	var operators []*operator
	for _, program := range both(t) {
		o := watchOver(t, program, time.Minute, "--auto-compaction-mode=periodic",
			"--auto-compaction-retention="+shortRetention)
		// What goes on being written is compacted up to somewhere in the past.
		for begun := false; !begun; {
			o.put(1, 10)
			_, err := o.client.Get(o.ctx, "key0", clientv3.WithRev(2))
			begun = errors.Is(err, rpctypes.ErrCompacted)
			if err != nil && !begun {
				t.Fatal(err)
			}
		}
		now, err := o.client.Get(o.ctx, "key0")
		if err != nil || now.Count != 1 {
			t.Fatalf("the present has gone too: %v %v", now, err)
		}
		// The same number of writes on both, all of which get old.
		last := o.put(200-int(now.Header.Revision%200), 10)
		o.awaitCompaction(last - 1)
		o.seen = append(o.seen, fmt.Sprint("to the last write: ", o.logged(`"completed auto periodic`) > 0,
			o.logged(fmt.Sprintf(`"revision":%d`, last)) > 0))
		o.seen = append(o.seen, fmt.Sprint("the state is compacted too: ",
			o.logged("finished scheduled compaction") > 0))
		_, err = o.client.Get(o.ctx, "key1", clientv3.WithRev(last))
		o.note("get at the last write", err)
		_, err = o.client.Get(o.ctx, "key1", clientv3.WithRev(last-1))
		o.note("get before it", err)
		watched := <-o.client.Watch(o.ctx, "key1", clientv3.WithRev(2))
		o.note(fmt.Sprintf("watch, canceled: %v, to the last write: %v", watched.Canceled,
			watched.CompactRevision == last), watched.Err())
		if err := o.member.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := o.member.Run(); err != nil {
			t.Fatal(err)
		}
		o.connect()
		_, err = o.client.Get(o.ctx, "key1", clientv3.WithRev(last-1))
		o.note("get before it, after a restart", err)
		o.awaitCompaction(o.put(3, 10) - 1)
		operators = append(operators, o)
	}
	compareSeen(t, operators)
}

// In the mode of revisions so many of them stay. etcd looks every five minutes, and so do we; so this
// has its place among the long forms.
func TestRevisionAutoCompaction(t *testing.T) {
	if !cluster.Soak() {
		t.Skip("takes five minutes; make soak has it")
	}
	t.Parallel()
	var operators []*operator
	for _, program := range both(t) {
		o := watchOver(t, program, 15*time.Minute, "--auto-compaction-mode=revision",
			"--auto-compaction-retention=100")
		o.put(500, 10)
		operators = append(operators, o)
	}
	for _, o := range operators {
		now, err := o.client.Get(o.ctx, "key0")
		if err != nil {
			t.Fatal(err)
		}
		kept := now.Header.Revision - 100
		o.awaitCompaction(kept - 1)
		o.look(2, kept-1, kept)
		o.seen = append(o.seen, fmt.Sprint("compactions: ", o.logged(`"completed auto revision compaction"`)))
	}
	compareSeen(t, operators)
}

// Retentions that cannot be meant are refused in both modes, by both.
func TestRetentionsThatAreRefused(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range both(t) {
		for _, flags := range [][]string{
			{"--auto-compaction-mode=periodic", "--auto-compaction-retention=soon"},
			{"--auto-compaction-mode=revision", "--auto-compaction-retention=many"},
			{"--auto-compaction-mode=weekly", "--auto-compaction-retention=1"},
		} {
			member := cluster.New(t, program, cluster.Options{Args: flags})
			if err := member.Launch(); err != nil {
				t.Fatal(err)
			}
			exit, err := member.WaitExit(commandTimeout)
			if err != nil {
				t.Fatalf("%s takes %v: %v", program.Name, flags, err)
			}
			told[program.Name] = append(told[program.Name], fmt.Sprint(flags, exit))
		}
	}
	if difference := gocmp.Diff(told[cluster.Reference(t).Name], told[cluster.Subject(t).Name]); difference != "" {
		t.Error(difference)
	}
}

func (o *operator) size() int64 {
	o.t.Helper()
	status, err := o.client.Status(o.ctx, o.member.Client)
	if err != nil {
		o.t.Fatal(err)
	}
	return status.DbSize
}

// At its start a member gives back what a compaction has left free, if that is at least the
// threshold; and says in the log which it does.
func TestAMemberDefragmentsAtItsStart(t *testing.T) {
	t.Parallel()
	const flag = "--bootstrap-defrag-threshold-megabytes"
	var operators []*operator
	for _, program := range both(t) {
		o := watchOver(t, program, 2*time.Minute)
		last := o.put(300, 100_000)
		if _, err := o.client.Compact(o.ctx, last, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		for _, threshold := range []string{"=1000", "=5"} {
			before := o.size()
			skipped, done := o.logged(`"Skipping defragmentation"`), o.logged(`"finished defragment`)
			if err := o.member.Stop(); err != nil {
				t.Fatal(err)
			}
			o.member.ReplaceArgs(flag, flag+threshold)
			if err := o.member.Run(); err != nil {
				t.Fatal(err)
			}
			o.connect()
			after := o.size()
			t.Logf("%s%s: %d bytes, then %d", program.Name, threshold, before, after)
			o.seen = append(o.seen, fmt.Sprintf("%s: nearly all given back: %v, skipped: %v, done: %v",
				threshold, after < before/4, o.logged(`"Skipping defragmentation"`)-skipped,
				o.logged(`"finished defragment`)-done))
		}
		got, err := o.client.Get(o.ctx, "key", clientv3.WithPrefix(), clientv3.WithCountOnly())
		o.note(fmt.Sprint("keys: ", got.Count), err)
		operators = append(operators, o)
	}
	compareSeen(t, operators)
}

// A compaction deletes so many rows at a time, and rests between; so it takes at least as long as all
// of its rests do. The outcome is the same, and reads and writes go on meanwhile.
func TestACompactionRestsBetweenItsBatches(t *testing.T) {
	t.Parallel()
	const revisions, batch, rest = 300, 20, 100 * time.Millisecond
	var operators []*operator
	var hashes []uint32
	for _, program := range both(t) {
		o := watchOver(t, program, time.Minute, fmt.Sprintf("--compaction-batch-limit=%d", batch),
			fmt.Sprintf("--compaction-sleep-interval=%v", rest))
		last := o.put(revisions, 10)
		begun, compacted := time.Now(), make(chan error, 1)
		go func() {
			_, err := o.client.Compact(o.ctx, last, clientv3.WithCompactPhysical())
			compacted <- err
		}()
		// For clients the past is gone at once, whatever is left to be deleted.
		o.awaitCompaction(2)
		meanwhile := o.put(5, 10)
		err := <-compacted
		took := time.Since(begun)
		t.Logf("%s: %v", program.Name, took)
		if least := (revisions/batch - 1) * rest; took < least {
			t.Errorf("%s has not rested: %v instead of at least %v", program.Name, took, least)
		}
		o.note("compact", err)
		hash, err := pb.NewMaintenanceClient(o.client.ActiveConnection()).HashKV(o.ctx,
			&pb.HashKVRequest{Revision: meanwhile})
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, hash.Hash)
		o.look(2, last, last-1)
		operators = append(operators, o)
	}
	compareSeen(t, operators)
	if len(slices.Compact(hashes)) != 1 {
		t.Errorf("the hashes are %x", hashes)
	}
}
