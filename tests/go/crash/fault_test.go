package crash

import (
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

const (
	// exitTimeout bounds how long a server may go on after its disk has failed or refused.
	exitTimeout = 60 * time.Second
	shortFaults = 2
	soakFaults  = 50
)

// TestFailedSyncStopsTheServer lets fdatasync fail once. A file whose sync has failed is never to
// be trusted again, so the server has to stop, and what it acknowledged before has to be there.
func TestFailedSyncStopsTheServer(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("no strace; failing syncs are not tested")
	}
	seed := pickSeed(t)
	random := rand.New(rand.NewSource(seed))
	for round := range rounds(t, shortFaults, soakFaults) {
		number := 2 + random.Intn(150)
		t.Run(fmt.Sprintf("%d, sync %d", round, number), func(t *testing.T) {
			failedSync(t, seed, number)
		})
	}
}

func failedSync(t *testing.T, seed int64, number int) {
	folder := t.TempDir()
	healthy := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: folder + "/data"})
	if err := healthy.Run(); err != nil {
		t.Fatal(err)
	}
	if err := healthy.Stop(); err != nil {
		t.Fatal(err)
	}
	faulty := cluster.New(t, cluster.Subject(t), cluster.Options{
		DataDir: folder + "/data",
		Wrapper: []string{
			"strace", "-f", "--seccomp-bpf", "-qq", "-o", folder + "/strace", "-e", "trace=fdatasync,fsync",
			"-e", fmt.Sprintf("inject=fdatasync,fsync:error=EIO:when=%d", number),
		},
	})
	tr := &trial{server: faulty, writes: 1 << 40, size: 64}
	book := newLedger()
	if err := faulty.Run(); err == nil {
		running := startLoad(faulty.Dial(), book, 0, seed, tr.size)
		exit, err := faulty.WaitExit(exitTimeout)
		running.finish()
		if err != nil {
			t.Fatalf("after a failed sync: %v, %d writes acknowledged", err, book.count.Load())
		}
		if exit == nil {
			t.Error("the exit code says success")
		}
	} else if faulty.Alive() {
		t.Fatal(err)
	}
	if cluster.SubjectIsEtcd() {
		t.Logf("%d writes acknowledged", book.count.Load())
	} else if log := faulty.Log(); !strings.Contains(log, "Input/output error") {
		t.Errorf("no clear message in the log:\n%.2000s", log)
	}
	if err := healthy.Run(); err != nil {
		t.Fatal(err)
	}
	if err := newChecker(book).check(healthy.Dial(), nil); err != nil {
		t.Error(err)
	}
}

// TestFullDiskStopsTheServer loads a small file system until writes are refused, fills the rest of
// it by another's hand, goes on with what is not refused, gives it room, and goes on.
func TestFullDiskStopsTheServer(t *testing.T) {
	member, mount := smallDiskMember(t)
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, member.Dial())
	tr := &trial{server: member, writes: 100, size: 60_000, fault: func() error {
		for {
			alarms, err := c.maintenance.Alarm(c.ctx, &pb.AlarmRequest{})
			if err != nil {
				return fmt.Errorf("before the disk is full: %w", err)
			}
			if len(alarms.Alarms) > 0 {
				break
			}
		}
		fillUp(t, mount, 0)
		// Deletes pass, and each takes a little room in the log.
		var wait sync.WaitGroup
		for range 32 {
			wait.Go(func() {
				for c.ctx.Err() == nil && member.Alive() {
					_, err := c.kv.DeleteRange(c.ctx, &pb.DeleteRangeRequest{Key: []byte("nothing")})
					if err != nil {
						return
					}
				}
			})
		}
		exit, err := member.WaitExit(exitTimeout)
		wait.Wait()
		if err != nil {
			return fmt.Errorf("with a full disk the server is %w", err)
		}
		if exit == nil {
			t.Error("the exit code says success")
		}
		if !strings.Contains(strings.ToLower(member.Log()), "no space left on device") {
			t.Errorf("no clear message in the log:\n%.2000s", member.Log())
		}
		return command("mount", "-o", "remount,size=2G", mount)
	}}
	if err := tr.run(t, 1, pickSeed(t)); err != nil {
		t.Error(err)
	}
}

// smallDisk has room for an empty member of either server, and for a second or two of load.
const smallDisk = "400M"

// TestSecondProcessIsRefused starts another server on the same data directory.
func TestSecondProcessIsRefused(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd waits for the other process to end")
	}
	first := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	second := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: first.DataDir})
	if err := second.Launch(); err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, second, first.DataDir)
	if err := first.WaitReady(); err != nil {
		t.Error(err)
	}
}

func expectRefusal(t *testing.T, member *cluster.Member, mention string) {
	t.Helper()
	exit, err := member.WaitExit(exitTimeout)
	if err != nil {
		t.Fatalf("not refused: %v", err)
	}
	if exit == nil {
		t.Error("the exit code says success")
	}
	log := member.Log()
	if !strings.Contains(log, mention) || strings.Contains(log, "panicked") {
		t.Errorf("no clear message that names %s:\n%.3000s", mention, log)
	}
}

// TestDamagedFilesAreRefusedOrHarmless damages every file of a stopped member in turn. The server
// either refuses to start, naming the file or the directory, or serves all that was acknowledged
// (damage may hit bytes that are not in use).
func TestDamagedFilesAreRefusedOrHarmless(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd cuts damaged logs silently; this is about Trilith's promise")
	}
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	book := newLedger()
	running := startLoad(member.Dial(), book, 0, pickSeed(t), 500)
	running.awaitWrites(300)
	running.finish()
	if err := member.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, file := range filesBelow(t, member.DataDir) {
		for _, damage := range damages {
			t.Run(damage.name+" "+file, func(t *testing.T) {
				damageOne(t, member.DataDir, file, damage.inflict, book)
			})
		}
	}
}

var damages = []struct {
	name    string
	inflict func(content []byte) []byte
}{
	{"empty", func([]byte) []byte { return nil }},
	{"half of", func(content []byte) []byte { return content[:usedLength(content)/2] }},
	{"flipped", func(content []byte) []byte {
		content[usedLength(content)/2] ^= 0x55
		return content
	}},
}

// usedLength is the length without the zeros at the end: log files are filled in advance.
func usedLength(content []byte) int {
	for i := len(content); i > 0; i-- {
		if content[i-1] != 0 {
			return i
		}
	}
	return len(content)
}

func damageOne(t *testing.T, original, file string, inflict func([]byte) []byte, book *ledger) {
	folder := filepath.Join(t.TempDir(), "copy")
	if err := command("cp", "-a", "--sparse=always", original, folder); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, file)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) == 0 {
		t.Skip("the file is empty")
	}
	if err := os.WriteFile(path, inflict(content), 0o600); err != nil {
		t.Fatal(err)
	}
	member := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: folder})
	if err := member.Run(); err != nil {
		if member.Alive() {
			t.Fatal(err)
		}
		expectRefusal(t, member, folder)
		return
	}
	book.mutex.Lock()
	written := append([]attempt{}, book.acknowledged...)
	book.mutex.Unlock()
	judge := newChecker(&ledger{
		acknowledged: written, leases: book.leases, doubtfulLeases: book.doubtfulLeases,
	})
	err = judge.check(member.Dial(), nil)
	if code := status.Code(err); code == codes.Internal || code == codes.DataLoss {
		// Not every block is read at the start. One that is found damaged later is an error then,
		// which names the file.
		if !strings.Contains(member.Log()+err.Error(), folder) {
			t.Errorf("%v, and nothing says where:\n%.3000s", err, member.Log())
		}
	} else if err != nil {
		t.Errorf("the server starts on a damaged file, and %v", err)
	}
}

func filesBelow(t *testing.T, folder string) []string {
	var files []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			relative, _ := filepath.Rel(folder, path)
			files = append(files, relative)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
