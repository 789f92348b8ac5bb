package bbolt

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestGoSeesWhatOurWriterWrote(t *testing.T) {
	for _, shape := range shapes() {
		if shape.nested > 0 {
			// Our writer has no buckets in buckets.
			continue
		}
		t.Run(shape.name, func(t *testing.T) {
			folder := t.TempDir()
			random := rand.New(rand.NewSource(2))
			made := filepath.Join(folder, "go.db")
			shape.make(t, made, random)
			want := goDump(t, made)
			path := filepath.Join(folder, "ours.db")
			if _, err := run(t, want, "load", path, strconv.Itoa(shape.pageSize)); err != nil {
				t.Fatal(err)
			}
			if got := goDump(t, path); got != want {
				t.Errorf("Go sees other entries than were written: %d and %d bytes of text",
					len(got), len(want))
			}
			if size(t, path) > size(t, made) {
				t.Errorf("our file has %d bytes, Go's %d", size(t, path), size(t, made))
			}
			changeByGo(t, path, shape, random)
		})
	}
}

// Every number of keys around the borders of pages, in one file.
func TestGoSeesTreesOfEverySize(t *testing.T) {
	text := ""
	for pairs := range 120 {
		text += fmt.Sprintf("bucket 0 .%04x\n", pairs)
		for key := range pairs {
			text += fmt.Sprintf("pair 1 .%04x%0200x .%060x\n", key, key, pairs)
		}
	}
	path := filepath.Join(t.TempDir(), "ours.db")
	if _, err := run(t, text, "load", path, "1024"); err != nil {
		t.Fatal(err)
	}
	if goDump(t, path) != text {
		t.Error("Go sees other entries than were written")
	}
}

// changeByGo writes to our file with Go's bbolt, as etcd does, and has both check it.
func changeByGo(t *testing.T, path string, shape shape, random *rand.Rand) {
	t.Helper()
	shape.deleted = 0.5
	for _, noFreelist := range []bool{true, false} {
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: noFreelist, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		for number := range shape.buckets {
			name := fmt.Appendf(nil, "bucket %d", number)
			for _, change := range []func(*bolt.Bucket, *rand.Rand) error{
				shape.thin,
				func(b *bolt.Bucket, r *rand.Rand) error { return shape.fill(b, r, shape.pairs/2) },
				shape.thin,
			} {
				err := db.Update(func(tx *bolt.Tx) error { return change(tx.Bucket(name), random) })
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		want := goDump(t, path)
		if got, err := run(t, "", "dump", path); err != nil || got != want {
			t.Errorf("our reader does not see what Go wrote into our file: %v", err)
		}
		if _, err := run(t, "", "check", path); err != nil {
			t.Error(err)
		}
	}
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
