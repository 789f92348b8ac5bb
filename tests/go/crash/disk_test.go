package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/cluster"
)

// smallDiskMember is a member on a file system of its own, and where that is mounted.
func smallDiskMember(t *testing.T) (*cluster.Member, string) {
	t.Helper()
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd does not look at the disk")
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting tmpfs needs root; the nearly full disk is not tested")
	}
	mount := t.TempDir()
	if err := command("mount", "-t", "tmpfs", "-o", "size="+smallDisk, "tmpfs", mount); err != nil {
		t.Skipf("no tmpfs; the nearly full disk is not tested: %v", err)
	}
	t.Cleanup(func() { _ = command("umount", mount) })
	return cluster.New(t, cluster.Subject(t), cluster.Options{DataDir: mount + "/data"}), mount
}

type client struct {
	ctx         context.Context
	kv          pb.KVClient
	maintenance pb.MaintenanceClient
}

func newClient(t *testing.T, connection *grpc.ClientConn) client {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return client{ctx, pb.NewKVClient(connection), pb.NewMaintenanceClient(connection)}
}

func (c client) put(key string, size int) error {
	value := []byte(strings.Repeat("v", size))
	for at := range value {
		// The state is compressed.
		value[at] = byte(at*at>>3) ^ byte(len(key)*at)
	}
	_, err := c.kv.Put(c.ctx, &pb.PutRequest{Key: []byte(key), Value: value}, grpc.WaitForReady(true))
	return err
}

func (c client) disarm(t *testing.T) {
	t.Helper()
	alarms, err := c.maintenance.Alarm(c.ctx, &pb.AlarmRequest{}, grpc.WaitForReady(true))
	if err != nil || len(alarms.Alarms) == 0 {
		t.Fatalf("no alarm: %v %v", alarms, err)
	}
	for _, alarm := range alarms.Alarms {
		_, err := c.maintenance.Alarm(c.ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// awaitPut puts until one is taken: the room is looked at from time to time.
func (c client) awaitPut(t *testing.T, key string) {
	t.Helper()
	for {
		err := c.put(key, 10)
		if err == nil {
			return
		}
		if c.ctx.Err() != nil {
			t.Fatal(err)
		}
		if strings.Contains(err.Error(), "database space exceeded") {
			c.disarm(t)
		}
	}
}

// fillUp writes a file that leaves about so many bytes free.
func fillUp(t *testing.T, mount string, leave int64) string {
	t.Helper()
	path := filepath.Join(mount, "somebody's")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, 64<<10)
	for {
		var stat syscall.Statfs_t
		if err := syscall.Statfs(mount, &stat); err != nil {
			t.Fatal(err)
		}
		if int64(stat.Bavail)*stat.Bsize <= leave {
			return path
		}
		if _, err := file.Write(block); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				return path
			}
			t.Fatal(err)
		}
	}
}

// Clients are refused before the disk is full, and the member goes on by itself once there is room.
func TestANearlyFullDiskRefusesWritesAndGoesOn(t *testing.T) {
	member, mount := smallDiskMember(t)
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, member.Dial())
	if err := c.put("first", 10); err != nil {
		t.Fatal(err)
	}
	filler := fillUp(t, mount, 40<<20)
	var refused error
	for number := 0; refused == nil; number++ {
		if number == 10_000 {
			t.Fatal("the disk is nearly full and everything is taken")
		}
		refused = c.put(fmt.Sprint("key ", number%10), 1000)
	}
	if !strings.Contains(refused.Error(), "etcdserver: mvcc: database space exceeded") {
		t.Fatal(refused)
	}
	if _, err := c.kv.DeleteRange(c.ctx, &pb.DeleteRangeRequest{Key: []byte("key 1")}); err != nil {
		t.Errorf("a delete is refused: %v", err)
	}
	got, err := c.kv.Range(c.ctx, &pb.RangeRequest{Key: []byte("first")})
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("a read is refused: %v %v", got, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	c.awaitPut(t, "later")
	if !member.Alive() {
		t.Error("the member did not live through it")
	}
}

// A member whose disk somebody else has filled starts with the room that was put aside.
func TestAMemberStartsOnAFullDisk(t *testing.T) {
	member, mount := smallDiskMember(t)
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, member.Dial())
	if err := c.put("first", 10); err != nil {
		t.Fatal(err)
	}
	reserve := filepath.Join(member.DataDir, "reserve")
	for {
		if _, err := os.Stat(reserve); err == nil {
			break
		}
		if c.ctx.Err() != nil {
			t.Fatal("no room is put aside")
		}
	}
	member.Kill()
	filler := fillUp(t, mount, 0)
	if err := member.Run(); err != nil {
		t.Fatal(err)
	}
	c = newClient(t, member.Dial())
	got, err := c.kv.Range(c.ctx, &pb.RangeRequest{Key: []byte("first")})
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("%v %v", got, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	c.awaitPut(t, "later")
}
