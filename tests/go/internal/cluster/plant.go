package cluster

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Plant flips one bit in the latest value of a key, in the data of a stopped member of either
// program; the same call again takes it back.
func Plant(t testing.TB, member *Member, key string) {
	t.Helper()
	var err error
	if member.Program.Name == "etcd" {
		err = plantInBolt(filepath.Join(member.DataDir, "member", "snap", "db"), key)
	} else {
		command := exec.Command(Example(t, "corrupt_value"), member.DataDir, key)
		var said []byte
		if said, err = command.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	if err != nil {
		t.Fatalf("planting a difference in the data of %s: %v", member.Program.Name, err)
	}
}

func plantInBolt(path, key string) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Update(func(tx *bolt.Tx) error {
		records := tx.Bucket([]byte("key"))
		cursor := records.Cursor()
		for at, record := cursor.Last(); at != nil; at, record = cursor.Prev() {
			latest := &mvccpb.KeyValue{}
			if err := proto.Unmarshal(record, latest); err != nil {
				return err
			}
			if string(latest.Key) != key {
				continue
			}
			latest.Value = bytes.Clone(latest.Value)
			latest.Value[0] ^= 1
			changed, err := proto.Marshal(latest)
			if err != nil {
				return err
			}
			return records.Put(bytes.Clone(at), changed)
		}
		return fmt.Errorf("there is no key %s", key)
	})
}
