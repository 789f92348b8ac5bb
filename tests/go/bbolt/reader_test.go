package bbolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"trilith.dev/tests/internal/cluster"
)

// run calls bbolt_text and returns its standard output, or an error with what it says.
func run(t testing.TB, stdin string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.Command(cluster.Example(t, "bbolt_text"), arguments...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := command.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), err
}

func TestOurReaderSeesWhatGoWrote(t *testing.T) {
	for _, shape := range shapes() {
		t.Run(shape.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "go.db")
			shape.make(t, path, rand.New(rand.NewSource(1)))
			want := goDump(t, path)
			got, err := run(t, "", "dump", path)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("our reader sees other entries than Go's: %d and %d bytes of text",
					len(got), len(want))
			}
			summary, err := run(t, "", "check", path)
			if err != nil {
				t.Fatal(err)
			}
			if free := goFreePages(t, path); !strings.Contains(summary, free) {
				t.Errorf("the check says %s, Go's bbolt %s", summary, free)
			}
		})
	}
}

// goFreePages returns the number of free pages as bbolt_text writes it.
func goFreePages(t testing.TB, path string) string {
	t.Helper()
	// Opened for writing, since only then the free pages are counted.
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// A transaction that writes takes the pages of older ones into the count.
	if err := db.View(func(*bolt.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("free_pages: %d ", db.Stats().FreePageN+db.Stats().PendingPageN)
}

// The reader must say what is wrong, or not see the damage; a panic has another exit code.
func TestOurReaderRefusesDamage(t *testing.T) {
	seed := int64(cluster.EnvInt(t, "BBOLT_SEED", int(time.Now().UnixNano()%1_000_000)))
	rounds := 40
	if cluster.Soak() {
		rounds = 5000
	}
	rounds = cluster.EnvInt(t, "BBOLT_ROUNDS", rounds)
	t.Logf("BBOLT_SEED=%d BBOLT_ROUNDS=%d", seed, rounds)
	random := rand.New(rand.NewSource(seed))
	shape := shape{pageSize: 1024, buckets: 2, pairs: 60, keyMax: 30, valueMax: 300, nested: 1,
		deleted: 0.3}
	path := filepath.Join(t.TempDir(), "go.db")
	shape.make(t, path, random)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for round := range rounds {
		damaged := damage(sound, random)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"dump", "check"} {
			_, err := run(t, "", verb, path)
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
				t.Fatalf("round %d: %v", round, err)
			}
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Fatalf("round %d: the error does not name the file: %v", round, err)
			}
			if err != nil {
				refused++
			}
		}
	}
	if refused == 0 {
		t.Errorf("no damage was found in %d rounds", rounds)
	}
}

// damage changes the heads of pages, where the structure is, and the length of the file.
func damage(sound []byte, random *rand.Rand) []byte {
	damaged := append([]byte{}, sound...)
	for range 1 + random.Intn(4) {
		page := random.Intn(len(damaged)/1024) * 1024
		at := page + random.Intn(64)
		switch random.Intn(4) {
		case 0:
			damaged[at] ^= 1 << random.Intn(8)
		case 1:
			damaged[at] = 0xff
		case 2:
			copy(damaged[page:page+1024], sound[random.Intn(len(sound)/1024)*1024:])
		case 3:
			copy(damaged[at:], randomBytes(random, min(8, len(damaged)-at)))
		}
	}
	if random.Intn(10) == 0 {
		damaged = damaged[:max(1024, random.Intn(len(damaged)))]
	}
	return damaged
}
