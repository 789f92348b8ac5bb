// Package snapshot tests that a snapshot of Trilith is one of etcd's, with etcd's own tools.
package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"trilith.dev/tests/internal/boltfile"
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

func contentOf(t testing.TB, path string) boltfile.Content {
	t.Helper()
	content, err := boltfile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// number is an unsigned number of the bucket `meta`.
func number(t testing.TB, content boltfile.Content, key string) uint64 {
	t.Helper()
	value := content.Buckets["meta"][key]
	if len(value) != 8 {
		t.Fatalf("%s of the bucket meta is %q", key, value)
	}
	return binary.BigEndian.Uint64([]byte(value))
}

// restore makes a data directory of the snapshot, as an operator does.
func restore(t testing.TB, path string, flags ...string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "restored")
	runTool(t, "etcdutl", append([]string{"snapshot", "restore", path, "--data-dir=" + folder,
		"--name=one", "--initial-cluster=one=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380"}, flags...)...)
	if _, err := os.Stat(filepath.Join(folder, "member", "snap", "db")); err != nil {
		t.Fatal(err)
	}
	return folder
}
