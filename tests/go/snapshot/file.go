// Package snapshot tests that a snapshot of Trilith is one of etcd's, with etcd's own tools.
package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"trilith.dev/tests/internal/cluster"
)

// toolTimeout bounds one run of etcdctl or etcdutl.
const toolTimeout = 60 * time.Second

// runTool calls one of the stock programs, which must succeed.
func runTool(t testing.TB, name string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, cluster.Tool(t, name), arguments...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, arguments, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// save takes a snapshot with etcdctl, which checks what it receives.
func save(t testing.TB, member *cluster.Member) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	runTool(t, "etcdctl", "--endpoints="+member.Client, "snapshot", "save", path)
	return path
}

// fileStatus is what `etcdutl snapshot status` prints as JSON.
type fileStatus struct {
	Hash      uint32 `json:"hash"`
	Revision  int64  `json:"revision"`
	TotalKey  int    `json:"totalKey"`
	TotalSize int64  `json:"totalSize"`
	Version   string `json:"version"`
}

// etcdutl checks the file with bbolt's own check before it answers.
func statusOf(t testing.TB, path string) fileStatus {
	t.Helper()
	var status fileStatus
	text := runTool(t, "etcdutl", "--write-out=json", "snapshot", "status", path)
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return status
}

// content is every bucket of a file with its pairs.
type content struct {
	buckets map[string]map[string]string
	// hash is over everything, as etcdutl computes it.
	hash uint32
	// memberHash is over what members agree on, as the RPC `Hash` computes it.
	memberHash uint32
	// records are the keys of the bucket `key`, in order.
	records []string
}

func contentOf(t testing.TB, path string) content {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all, agreed := crc32.New(castagnoli), crc32.New(castagnoli)
	found := content{buckets: map[string]map[string]string{}}
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt finds fault with the snapshot: %v", err)
		}
		return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
			all.Write(name)
			agreed.Write(name)
			pairs := map[string]string{}
			found.buckets[string(name)] = pairs
			return bucket.ForEach(func(key, value []byte) error {
				all.Write(key)
				all.Write(value)
				if string(name) != "meta" || !ownKeys[string(key)] {
					agreed.Write(key)
					agreed.Write(value)
				}
				if string(name) == "key" {
					found.records = append(found.records, string(key))
				}
				pairs[string(key)] = string(value)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	found.hash, found.memberHash = all.Sum32(), agreed.Sum32()
	return found
}

// number is an unsigned number of the bucket `meta`.
func (c content) number(t testing.TB, key string) uint64 {
	t.Helper()
	value := c.buckets["meta"][key]
	if len(value) != 8 {
		t.Fatalf("%s of the bucket meta is %q", key, value)
	}
	return binary.BigEndian.Uint64([]byte(value))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ownKeys of the bucket `meta` may differ from member to member.
var ownKeys = map[string]bool{"consistent_index": true, "term": true, "storageVersion": true}

// restore makes a data directory of the snapshot, as an operator does.
func restore(t testing.TB, path string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "restored")
	runTool(t, "etcdutl", "snapshot", "restore", path, "--data-dir="+folder, "--name=one",
		"--initial-cluster=one=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380")
	if _, err := os.Stat(filepath.Join(folder, "member", "snap", "db")); err != nil {
		t.Fatal(err)
	}
	return folder
}
