package differential

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/boltfile"
)

// sameSnapshots compares all that a member of each side holds, as their snapshots show it.
func sameSnapshots(t *testing.T, member counterparts) error {
	reference, err := settledSnapshot(member.reference, filepath.Join(t.TempDir(), "reference.db"))
	if err != nil {
		return err
	}
	subject, err := settledSnapshot(member.subject, filepath.Join(t.TempDir(), "subject.db"))
	if err != nil {
		return err
	}
	t.Logf("the snapshots have %d records and %d leases",
		len(reference.Records), len(reference.Buckets["lease"]))
	if difference := cmp.Diff(reference.Shared(), subject.Shared()); difference != "" {
		return fmt.Errorf("the snapshots differ (-etcd +subject):\n%s", difference)
	}
	return nil
}

// settledSnapshot takes snapshots until there is one without a compaction under way.
func settledSnapshot(server *grpc.ClientConn, path string) (boltfile.Content, error) {
	for deadline := time.Now().Add(deliveryTimeout); ; time.Sleep(pollInterval) {
		if err := snapshot(server, path); err != nil {
			return boltfile.Content{}, err
		}
		content, err := boltfile.Read(path)
		meta := content.Buckets["meta"]
		if err != nil || meta["finishedCompactRev"] == meta["scheduledCompactRev"] {
			return content, err
		}
		if time.Now().After(deadline) {
			return content, errors.New("a compaction does not end")
		}
	}
}

// snapshot receives a snapshot into a file and checks it.
func snapshot(server *grpc.ClientConn, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deliveryTimeout)
	defer cancel()
	stream, err := pb.NewMaintenanceClient(server).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return err
	}
	var file, last []byte
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		file, last = append(file, last...), response.Blob
	}
	if sum := sha256.Sum256(file); string(sum[:]) != string(last) {
		return fmt.Errorf("the checksum of a snapshot of %d bytes is %x", len(file), last)
	}
	return os.WriteFile(path, file, 0o600)
}
