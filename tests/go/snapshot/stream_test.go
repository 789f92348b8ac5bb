package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/cluster"
)

// A snapshot holds what was there at one moment: all revisions up to one, and nothing of the next.
func TestASnapshotIsAPrefixOfWhatIsWritten(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	client := connect(t, member)
	done, written := make(chan error, 1), make(chan int64)
	writing, stop := context.WithCancel(ctx)
	go func() {
		for number := 2; ; number++ {
			// Put number n makes revision n.
			put, err := client.Put(writing, fmt.Sprintf("key %d", number), strings.Repeat("v", 3000))
			if err != nil {
				done <- err
				return
			}
			select {
			case written <- put.Header.Revision:
			default:
			}
		}
	}()
	last := int64(0)
	for last < 500 {
		path := save(t, member)
		status, content := statusOf(t, path), contentOf(t, path)
		if status.Revision <= last {
			t.Errorf("a put came between snapshots at revisions %d and %d", last, status.Revision)
		}
		last = status.Revision
		for at, record := range content.Records {
			main := binary.BigEndian.Uint64([]byte(record))
			value := content.Buckets["key"][record]
			if main != uint64(at+2) || !strings.Contains(value, fmt.Sprintf("key %d", main)) {
				t.Fatalf("record %d of the snapshot at %d is %q", at, last, record)
			}
		}
		// Every put was an entry, and there were others before.
		if index := number(t, content, "consistent_index"); index <= uint64(len(content.Records)) {
			t.Errorf("index %d with %d records", index, len(content.Records))
		}
		for revision := int64(0); revision <= last; {
			select {
			case revision = <-written:
			case err := <-done:
				t.Fatalf("a put failed during the snapshots: %v", err)
			}
		}
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
		t.Errorf("a put failed during the snapshots: %v", err)
	}
}

func TestBlobsCountDownAndEndWithTheChecksum(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	client := connect(t, member)
	fill(t, ctx, client, 40)
	stream, err := pb.NewMaintenanceClient(member.Dial()).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var total, sent uint64
	for last := false; ; {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) && last {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if total == 0 {
			total = response.RemainingBytes + uint64(len(response.Blob))
		}
		if response.Version != "3.7.0" {
			t.Fatalf("a blob of version %q", response.Version)
		}
		if sent == total {
			last = true
			if len(response.Blob) != 32 || response.RemainingBytes != 0 {
				t.Fatalf("the checksum has %d bytes", len(response.Blob))
			}
			continue
		}
		sent += uint64(len(response.Blob))
		if response.RemainingBytes != total-sent {
			t.Fatalf("%d of %d bytes remain after %d", response.RemainingBytes, total, sent)
		}
		if len(response.Blob) != 32*1024 && response.RemainingBytes != 0 {
			t.Fatalf("a blob of %d bytes is not the last", len(response.Blob))
		}
	}
}

// fill writes so many values of a quarter of a megabyte.
func fill(t testing.TB, ctx context.Context, client *clientv3.Client, values int) {
	t.Helper()
	for number := range values {
		_, err := client.Put(ctx, fmt.Sprintf("fill %d", number), strings.Repeat("f", 256<<10))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing waits for a client that has stopped reading, and what it began ends with its call.
func TestASlowClientHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{Args: []string{"--log-level=info"}})
	client := connect(t, member)
	// More than all windows and buffers between server and client hold.
	fill(t, ctx, client, 120)
	maintenance := pb.NewMaintenanceClient(member.Dial())
	slow, leave := context.WithCancel(ctx)
	for range 3 {
		stream, err := maintenance.Snapshot(slow, &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	for number := range 200 {
		if _, err := client.Put(ctx, fmt.Sprintf("meanwhile %d", number), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Compact(ctx, 100, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	leave()
	if !cluster.SubjectIsEtcd() {
		waitForLog(t, member, "the client has ended the call before it had the database snapshot", 3)
	}
	if status := statusOf(t, save(t, member)); status.Revision != 321 {
		t.Errorf("the snapshot is at revision %d after 320 puts", status.Revision)
	}
	waitForLog(t, member, "successfully sent database snapshot to client", 1)
}

// A server that stops does not wait for a client that takes nothing, and ends well although the
// thread that reads for it may still run: where that is differs from stop to stop.
func TestAStopEndsASnapshot(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	fill(t, ctx, connect(t, member), 120)
	const stops = 5
	for range stops {
		stopInASnapshot(t, ctx, member)
		if err := member.Run(); err != nil {
			t.Fatal(err)
		}
	}
	if status := statusOf(t, save(t, member)); status.Revision != 121 {
		t.Errorf("the snapshot is at revision %d after 120 puts", status.Revision)
	}
}

func stopInASnapshot(t *testing.T, ctx context.Context, member *cluster.Member) {
	t.Helper()
	stream, err := pb.NewMaintenanceClient(member.Dial()).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := member.Stop(); err != nil {
		t.Fatal(err)
	}
	// etcd ends itself with the signal that it was sent.
	if exit, err := member.WaitExit(time.Second); err != nil || (exit != nil && !cluster.SubjectIsEtcd()) {
		t.Errorf("the member ended with %v", exit)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		t.Error("what the client has looks like a complete snapshot")
	}
}

const pollInterval = 20 * time.Millisecond

// waitForLog waits until the member has logged a text so many times.
func waitForLog(t testing.TB, member *cluster.Member, text string, times int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(pollInterval) {
		if strings.Count(member.Log(), text) >= times {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q is not in the log %d times", text, times)
		}
	}
}

func TestAnEmptyMemberHasASnapshot(t *testing.T) {
	t.Parallel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	path := save(t, member)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if status := statusOf(t, path); status.TotalSize+32 != info.Size() || status.TotalKey > 10 {
		t.Errorf("status %+v of a file of %d bytes", status, info.Size())
	}
	etcd := cluster.Start(t, cluster.Reference(t), cluster.Options{DataDir: restore(t, path)})
	if _, err := os.Stat(filepath.Join(etcd.DataDir, "member", "wal")); err != nil {
		t.Error(err)
	}
}
