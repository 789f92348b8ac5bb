package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/testing/protocmp"

	"trilith.dev/tests/internal/cluster"
)

// etcdWithHistory is a running etcd with every kind of change in it, what a client sees of it, and
// the revision it was compacted at.
func etcdWithHistory(t testing.TB, ctx context.Context) (*cluster.Member, []any, int64) {
	t.Helper()
	etcd := cluster.Start(t, cluster.Reference(t), cluster.Options{})
	client := connect(t, etcd)
	compacted := history{client, ctx, t}.make()
	return etcd, view(t, ctx, client, compacted), compacted
}

// takeOver starts the subject on a data directory of etcd and compares what clients see.
func takeOver(t *testing.T, ctx context.Context, folder string, before []any, from int64) *cluster.Member {
	t.Helper()
	subject := cluster.Start(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	client := connect(t, subject)
	sameView(t, before, view(t, ctx, client, from))
	return subject
}

func sameView(t *testing.T, before, after []any) {
	t.Helper()
	if difference := gocmp.Diff(before, after, protocmp.Transform()); difference != "" {
		t.Fatalf("something else is served than before:\n%s", difference)
	}
}

func TestADataDirectoryOfEtcdGoesOn(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"clean stop", "kill -9"} {
		t.Run(end, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			etcd, before, compacted := etcdWithHistory(t, ctx)
			if end == "kill -9" {
				// What etcd has not committed to its database by now is only in its log.
				etcd.Kill()
			} else if err := etcd.Stop(); err != nil {
				t.Fatal(err)
			}
			subject := takeOver(t, ctx, etcd.DataDir, before, compacted)
			if _, err := os.Stat(filepath.Join(etcd.DataDir, "member.etcd", "snap", "db")); err != nil {
				t.Errorf("etcd's files are not kept: %v", err)
			}
			h := history{connect(t, subject), ctx, t}
			h.disarm()
			h.must(h.client.Put(ctx, "later", "1"))
			h.must(h.client.Compact(ctx, compacted+2, clientv3.WithCompactPhysical()))
			again := view(t, ctx, h.client, compacted+2)
			if err := subject.Stop(); err != nil {
				t.Fatal(err)
			}
			restarted := cluster.Start(t, cluster.Subject(t), cluster.Options{DataDir: etcd.DataDir})
			after := view(t, ctx, connect(t, restarted), compacted+2)
			if difference := gocmp.Diff(again, after, protocmp.Transform()); difference != "" {
				t.Errorf("a restart changes what is served:\n%s", difference)
			}
		})
	}
}

func TestADirectoryThatEtcdutlRestoredStarts(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"as it was": nil, "with a higher revision": {"--bump-revision=1000", "--mark-compacted"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			etcd, before, from := etcdWithHistory(t, ctx)
			path := save(t, etcd)
			for range 2 {
				h := history{connect(t, etcd), ctx, t}
				h.disarm()
				h.must(h.client.Put(ctx, "not in the snapshot", "1"))
			}
			if flags != nil {
				// What etcd makes of the same directory is what counts.
				reference := cluster.Start(t, cluster.Reference(t),
					cluster.Options{DataDir: restore(t, path, flags...)})
				from = before[0].(int64) + 1000
				before = view(t, ctx, connect(t, reference), from)
			}
			takeOver(t, ctx, restore(t, path, flags...), before, from)
		})
	}
}

// An import that is killed at any moment is begun again or goes on, and etcd's files are whole
// until it is done.
func TestAnImportThatIsKilledIsDoneByTheNextStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	etcd := cluster.Start(t, cluster.Reference(t), cluster.Options{})
	client := connect(t, etcd)
	for batch := range 100 {
		var puts []clientv3.Op
		for number := range 100 {
			key := fmt.Sprintf("many %05d", batch*100+number)
			puts = append(puts, clientv3.OpPut(key, strings.Repeat("m", 300)))
		}
		history{client, ctx, t}.must(client.Txn(ctx).Then(puts...).Commit())
	}
	// All but a few of them, so that the database has more in it than a client sees.
	history{client, ctx, t}.must(client.Delete(ctx, "many 001", clientv3.WithRange("many 1")))
	compacted := history{client, ctx, t}.make()
	before := view(t, ctx, client, compacted)
	etcd.Kill()
	rounds := 1
	if cluster.Soak() {
		// More than fifty, of eight kinds.
		rounds = 8
	}
	folder := filepath.Join(t.TempDir(), "data")
	renew := func() {
		if err := errors.Join(os.RemoveAll(folder), os.CopyFS(folder, os.DirFS(etcd.DataDir))); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	subject := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	// Each appears at another moment of the import; the last two when it is nearly and all done.
	for _, moment := range []string{
		"member.new", "member.new/state", "member.new/state/CURRENT",
		"member.new/state/load-revision-0", "member.new/log/LOCK",
		"member.new/identity", "member.etcd", "member/identity",
	} {
		for kills := 0; kills < rounds; {
			if err := subject.Launch(); err != nil {
				t.Fatal(err)
			}
			if waitForMoment(t, subject, folder, moment) {
				kills++
			}
			subject.Kill()
			// A moment may pass unseen, after which there is nothing more to import.
			if exists(filepath.Join(folder, imported)) && kills < rounds {
				renew()
			}
		}
	}
	takeOver(t, ctx, folder, before, compacted)
}

// imported is there once an import is done.
var imported = filepath.Join("member", "identity")

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// waitForMoment returns when a file is there that appears in the course of an import; false when
// the import is done, and the file has come and gone meanwhile.
func waitForMoment(t *testing.T, member *cluster.Member, folder, file string) bool {
	t.Helper()
	for begun := time.Now(); member.Alive(); {
		done := exists(filepath.Join(folder, imported))
		if exists(filepath.Join(folder, file)) {
			return true
		}
		if done {
			return false
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s does not appear", file)
		}
	}
	t.Fatal("the member has stopped by itself")
	return false
}

// refused launches the subject, which has to exit by itself, and returns its log.
func refused(t *testing.T, folder string) string {
	t.Helper()
	subject := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	if err := subject.Launch(); err != nil {
		t.Fatal(err)
	}
	exit, err := subject.WaitExit(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if exit == nil {
		t.Error("the start ended without an error")
	}
	return subject.Log()
}

// contents maps every file below a folder to its bytes.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.Walk(folder, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		bytes, err := os.ReadFile(path)
		found[path] = string(bytes)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDamagedDataOfEtcdIsRefusedAndNotTouched(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	etcd, _, _ := etcdWithHistory(t, ctx)
	etcd.Kill()
	wal := filepath.Join("member", "wal", "0000000000000000-0000000000000000.wal")
	database := filepath.Join("member", "snap", "db")
	flip := func(at int) func([]byte) []byte {
		return func(bytes []byte) []byte {
			bytes[at] ^= 0x40
			return bytes
		}
	}
	for _, damage := range []struct {
		name, file, says string
		inflict          func([]byte) []byte
	}{
		{"a flipped bit in the log", wal, "restore the member from a snapshot", flip(3000)},
		{"no log", wal, "no file of etcd's write-ahead log", nil},
		{"a database that is cut short", database, "etcd's database cannot be taken over",
			func(bytes []byte) []byte { return bytes[:16*4096] }},
		{"no database", database, "etcd's database cannot be taken over", nil},
		{"a foreign database", database, "etcd's database cannot be taken over",
			func([]byte) []byte { return []byte(strings.Repeat("not bbolt", 5000)) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(folder, os.DirFS(etcd.DataDir)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(folder, damage.file)
			bytes, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if damage.inflict == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, damage.inflict(bytes), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := contents(t, folder)
			log := refused(t, folder)
			if !strings.Contains(log, damage.says) {
				t.Errorf("the log does not say %q:\n%s", damage.says, log)
			}
			if difference := gocmp.Diff(keys(before), keys(contents(t, folder))); difference != "" {
				t.Errorf("files have changed:\n%s", difference)
			}
			for name, bytes := range contents(t, folder) {
				if before[name] != bytes {
					t.Errorf("%s has changed", name)
				}
			}
		})
	}
}

func keys(files map[string]string) map[string]int {
	sizes := map[string]int{}
	for name, bytes := range files {
		sizes[name] = len(bytes)
	}
	return sizes
}

// A directory that etcd is running on is left alone: both would go on under one name.
func TestADirectoryThatEtcdRunsOnIsNotTakenOver(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	etcd, before, compacted := etcdWithHistory(t, ctx)
	if log := refused(t, etcd.DataDir); !strings.Contains(log, "etcd is still running on it") {
		t.Errorf("it is not said why:\n%s", log)
	}
	sameView(t, before, view(t, ctx, connect(t, etcd), compacted))
	etcd.Kill()
	takeOver(t, ctx, etcd.DataDir, before, compacted)
}
