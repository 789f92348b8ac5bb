package snapshot

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"trilith.dev/tests/internal/cluster"
)

// ran is what a command line tool printed, and how it ended.
type ran struct {
	stdout, stderr string
	code           int
}

func runPath(t testing.TB, path string, arguments ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, path, arguments...)
	var stdout, stderr strings.Builder
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return ran{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// skipWithoutCommands leaves a test out when etcd stands in for the subject: it has no commands.
func skipWithoutCommands(t testing.TB) string {
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd keeps these commands in etcdutl")
	}
	return cluster.Subject(t).Path
}

func TestStatusPrintsWhatEtcdutlPrints(t *testing.T) {
	t.Parallel()
	trilith := skipWithoutCommands(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		member := cluster.Start(t, program, cluster.Options{})
		history{connect(t, member), ctx, t}.make()
		path := save(t, member)
		for _, format := range []string{"simple", "table", "json", "fields"} {
			arguments := []string{"snapshot", "status", path, "--write-out=" + format}
			ours, theirs := runPath(t, trilith, arguments...), runPath(t, cluster.Tool(t, "etcdutl"), arguments...)
			if difference := gocmp.Diff(theirs, ours, gocmp.AllowUnexported(ran{})); difference != "" {
				t.Errorf("a file of %s in format %s:\n%s", program.Name, format, difference)
			}
		}
	}
	for _, wrong := range [][]string{{"-w", "protobuf", "x"}, {"-w", "xml", "x"}, {"/nowhere.db"}} {
		arguments := append([]string{"snapshot", "status"}, wrong...)
		ours, theirs := runPath(t, trilith, arguments...), runPath(t, cluster.Tool(t, "etcdutl"), arguments...)
		if ours.stdout != "" || ours.stderr == "" {
			t.Errorf("%v: %+v, etcdutl: %+v", wrong, ours, theirs)
		}
	}
}

// The hash of a data directory is what etcdutl computes over a snapshot of the same member.
func TestHashKVPrintsWhatEtcdutlPrints(t *testing.T) {
	t.Parallel()
	trilith := skipWithoutCommands(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	client := connect(t, member)
	compacted := history{client, ctx, t}.make()
	now, err := client.Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	current := now.Header.Revision
	path := save(t, member)
	if err := member.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, revision := range []int64{
		0, compacted - 1, compacted, compacted + 1, current - 1, current, current + 1, -1,
	} {
		for _, format := range []string{"simple", "table", "json", "fields", "xml"} {
			flags := []string{fmt.Sprintf("--rev=%d", revision), "--write-out=" + format}
			ours := runPath(t, trilith, append([]string{"hashkv", member.DataDir}, flags...)...)
			theirs := runPath(t, cluster.Tool(t, "etcdutl"), append([]string{"hashkv", path}, flags...)...)
			if ours.stdout != theirs.stdout || ours.code != theirs.code {
				t.Errorf("%v: %+v, etcdutl %+v", flags, ours, theirs)
			}
		}
	}
	for _, wrong := range []string{"/nowhere", t.TempDir()} {
		if refused := runPath(t, trilith, "hashkv", wrong); refused.code != 1 || refused.stderr == "" {
			t.Errorf("%s: %+v", wrong, refused)
		}
	}
}

func TestRestoreMakesAMemberLikeEtcdutl(t *testing.T) {
	t.Parallel()
	trilith := skipWithoutCommands(t)
	for name, flags := range map[string][]string{
		"as it was": nil, "with a higher revision": {"--bump-revision=1000", "--mark-compacted"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			source := cluster.Start(t, cluster.Subject(t), cluster.Options{})
			client := connect(t, source)
			from := history{client, ctx, t}.make()
			path := save(t, source)
			reference := cluster.Start(t, cluster.Reference(t),
				cluster.Options{DataDir: restore(t, path, flags...)})
			expected := connect(t, reference)
			now, err := expected.Get(ctx, "x")
			if err != nil {
				t.Fatal(err)
			}
			if flags != nil {
				from = now.Header.Revision
			}
			before := view(t, ctx, expected, from)
			list, err := expected.MemberList(ctx)
			if err != nil {
				t.Fatal(err)
			}

			folder := filepath.Join(t.TempDir(), "restored")
			arguments := append([]string{"snapshot", "restore", path, "--data-dir=" + folder, "--name=one",
				"--initial-cluster=one=http://127.0.0.1:2380",
				"--initial-advertise-peer-urls=http://127.0.0.1:2380"}, flags...)
			if done := runPath(t, trilith, arguments...); done.code != 0 {
				t.Fatalf("%+v", done)
			}
			subject := takeOver(t, ctx, folder, before, from)
			again, err := connect(t, subject).MemberList(ctx)
			if err != nil {
				t.Fatal(err)
			}
			difference := gocmp.Diff(list.Members, again.Members, protocmp.Transform())
			if difference != "" || list.Header.ClusterId != again.Header.ClusterId {
				t.Errorf("clusters %x and %x, members:\n%s",
					list.Header.ClusterId, again.Header.ClusterId, difference)
			}
		})
	}
}

// A log elsewhere is made with the member, and one that was only begun does not stand in the way.
func TestRestorePutsTheLogWhereItIsTold(t *testing.T) {
	t.Parallel()
	trilith := skipWithoutCommands(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	source := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	client := connect(t, source)
	from := history{client, ctx, t}.make()
	before, path := view(t, ctx, client, from), save(t, source)
	folder, log := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "deep", "log")
	arguments := []string{"snapshot", "restore", path, "--data-dir=" + folder, "--wal-dir=" + log,
		"--name=one", "--initial-cluster=one=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380"}
	if done := runPath(t, trilith, arguments...); done.code != 0 {
		t.Fatalf("%+v", done)
	}
	if again := runPath(t, trilith, arguments...); again.code == 0 {
		t.Errorf("a member is made over another: %+v", again)
	}
	// As a crash would leave it that came before the member got its name.
	if err := os.Rename(filepath.Join(folder, "member"), filepath.Join(folder, "member.new")); err != nil {
		t.Fatal(err)
	}
	if done := runPath(t, trilith, arguments...); done.code != 0 {
		t.Fatalf("%+v", done)
	}
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{
		DataDir: folder, Args: []string{"--wal-dir=" + log},
	})
	sameView(t, before, view(t, ctx, connect(t, member), from))
}

func TestRestoreRefusesWhatEtcdutlRefuses(t *testing.T) {
	t.Parallel()
	trilith := skipWithoutCommands(t)
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	good := save(t, member)
	bytes, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, bytes []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := append([]byte{}, bytes...)
	flipped[len(flipped)/2] ^= 1
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "somebody's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, arguments := range map[string][]string{
		"a flipped bit":             {write("flipped.db", flipped)},
		"a file that is cut short":  {write("short.db", bytes[:8192+32])},
		"a file without checksum":   {write("plain.db", bytes[:len(bytes)-32])},
		"a foreign file":            {write("foreign.db", []byte(strings.Repeat("x", 4096+32)))},
		"a foreign file, unchecked": {write("foreign.db", []byte(strings.Repeat("x", 4096))), "--skip-hash-check"},
		"no file":                   {"/nowhere.db"},
		"a folder that is in use":   {good, "--data-dir=" + full},
		"a bump without a mark":     {good, "--bump-revision=5"},
		"a mark without a bump":     {good, "--mark-compacted"},
		"a name out of the cluster": {good, "--name=other"},
		"other peer URLs":           {good, "--initial-advertise-peer-urls=http://localhost:99"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "restored")
			for tool, path := range map[string]string{
				"etcdutl": cluster.Tool(t, "etcdutl"), "trilith": trilith,
			} {
				all := append([]string{"snapshot", "restore", "--data-dir=" + folder + tool}, arguments...)
				if strings.HasPrefix(arguments[len(arguments)-1], "--data-dir") {
					all = append([]string{"snapshot", "restore"}, arguments...)
				}
				done := runPath(t, path, all...)
				if done.code == 0 || done.stderr == "" {
					t.Errorf("%s does not refuse it: %+v", tool, done)
				}
			}
			if _, err := os.Stat(filepath.Join(folder+"trilith", "member")); !os.IsNotExist(err) {
				t.Errorf("a member was made: %v", err)
			}
		})
	}
	if done := runPath(t, trilith, "snapshot", "restore", write("plain.db", bytes[:len(bytes)-32]),
		"--skip-hash-check", "--data-dir="+filepath.Join(t.TempDir(), "plain")); done.code != 0 {
		t.Errorf("a copy of a database file is refused: %+v", done)
	}
}

func TestCheckPassesASoundMemberAndNamesDamage(t *testing.T) {
	t.Parallel()
	trilith := skipWithoutCommands(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	history{connect(t, member), ctx, t}.make()
	if locked := runPath(t, trilith, "check", member.DataDir); locked.code == 0 {
		t.Errorf("a directory in use is checked: %+v", locked)
	}
	if err := member.Stop(); err != nil {
		t.Fatal(err)
	}
	before := contents(t, member.DataDir)
	sound := runPath(t, trilith, "check", member.DataDir)
	if sound.code != 0 || !strings.Contains(sound.stdout, "state: sound at revision") {
		t.Errorf("%+v", sound)
	}
	if difference := gocmp.Diff(keys(before), keys(contents(t, member.DataDir))); difference != "" {
		t.Errorf("the check has changed files:\n%s", difference)
	}

	// A bit of the largest table.
	var table string
	for path := range before {
		if strings.HasSuffix(path, ".sst") && len(before[path]) > len(before[table]) {
			table = path
		}
	}
	bytes := []byte(before[table])
	bytes[len(bytes)/3] ^= 4
	if err := os.WriteFile(table, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := runPath(t, trilith, "check", member.DataDir)
	if damaged.code == 0 || !strings.Contains(damaged.stderr, filepath.Base(table)) {
		t.Errorf("damage of %s is not named: %+v", table, damaged)
	}
	for name, arguments := range map[string][]string{
		"nothing there": {"/nowhere"}, "an empty folder": {t.TempDir()}, "no folder": nil,
	} {
		if done := runPath(t, trilith, append([]string{"check"}, arguments...)...); done.code == 0 {
			t.Errorf("%s: %+v", name, done)
		}
	}
}
