package crash

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"trilith.dev/tests/internal/cluster"
)

// TestRefusedStartWritesNothing makes data directories that have to be refused, one of each kind,
// and compares what lies in them before and after.
func TestRefusedStartWritesNothing(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("this is about Trilith's formats")
	}
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	running := startLoad(member.Dial(), newLedger(), 0, pickSeed(t), 500)
	running.awaitWrites(100)
	running.finish()
	if err := member.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, refused := range refusals {
		t.Run(refused.name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "copy")
			if err := command("cp", "-a", "--sparse=always", member.DataDir, folder); err != nil {
				t.Fatal(err)
			}
			refused.change(t, filepath.Join(folder, "member"))
			before := picture(t, folder)
			again := cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: folder})
			if err := again.Launch(); err != nil {
				t.Fatal(err)
			}
			expectRefusal(t, again, folder)
			if log := again.Log(); !strings.Contains(log, refused.says) {
				t.Errorf("nothing says %q:\n%.3000s", refused.says, log)
			}
			for path, was := range before {
				if is := picture(t, folder)[path]; is != was {
					t.Errorf("%s: before %s, after %s", path, was, is)
				}
			}
			if after := picture(t, folder); len(after) != len(before) {
				t.Errorf("%d files before, %d after", len(before), len(after))
			}
		})
	}
}

var refusals = []struct {
	name   string
	change func(t *testing.T, member string)
	says   string
}{
	{"a state of a later format", func(t *testing.T, member string) {
		edit(t, filepath.Join(member, "state", "FORMAT"), func([]byte) []byte {
			return []byte("trilith-state 2\n")
		})
	}, "format 2"},
	{"a state that is not ours", func(t *testing.T, member string) {
		if err := os.Remove(filepath.Join(member, "state", "FORMAT")); err != nil {
			t.Fatal(err)
		}
	}, "FORMAT"},
	{"an identity of a later format", func(t *testing.T, member string) {
		edit(t, filepath.Join(member, "identity"), func(content []byte) []byte {
			return resigned(bytes.Replace(content, []byte("identity 1\n"), []byte("identity 2\n"), 1))
		})
	}, "its format is 2"},
	{"an identity of another size", func(t *testing.T, member string) {
		edit(t, filepath.Join(member, "identity"), func(content []byte) []byte {
			return content[:len(content)-1]
		})
	}, "damaged"},
	{"no log", func(t *testing.T, member string) {
		if err := os.RemoveAll(filepath.Join(member, "log")); err != nil {
			t.Fatal(err)
		}
	}, "log"},
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := change(bytes.Clone(content))
	if bytes.Equal(changed, content) {
		t.Fatalf("%s is not changed:\n%s", path, content)
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
}

// resigned is an identity file with the checksum of what it says now.
func resigned(content []byte) []byte {
	body := content[:bytes.LastIndex(content, []byte("crc32c "))]
	sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	return fmt.Appendf(bytes.Clone(body), "crc32c %08x\n", sum)
}

// picture is what can be seen of each file: its size, when it was changed, and its content.
func picture(t *testing.T, folder string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, file := range filesBelow(t, folder) {
		path := filepath.Join(folder, file)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		seen[file] = fmt.Sprintf("%d bytes of %s, %x", info.Size(), info.ModTime(),
			sha256.Sum256(content))
	}
	return seen
}
