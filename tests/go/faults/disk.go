package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"trilith.dev/tests/internal/events"
)

const (
	// onSmallDisk is the number of the member whose data lie on a small file system.
	onSmallDisk = 2
	// smallDisk has room for a long trial.
	smallDisk = "800M"
)

// mountSmallDisk gives one member a file system of its own.
func mountSmallDisk(tr *trial) {
	member := tr.group.Members[onSmallDisk]
	if err := os.Mkdir(member.DataDir, 0o700); err != nil {
		tr.t.Fatal(err)
	}
	output, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0700,size="+smallDisk, "tmpfs",
		member.DataDir).CombinedOutput()
	if err != nil {
		tr.t.Skipf("no tmpfs; the full disk is not tested: %v: %s", err, output)
	}
	tr.t.Cleanup(func() {
		if member.Alive() {
			member.Kill()
		}
		_ = exec.Command("umount", member.DataDir).Run()
	})
}

// fullDisk is filled by another's hand to the last byte. The member may refuse, or end with a clear
// text; the others go on as far as its alarm lets them.
var fullDisk = fault{"a full disk on one member", func(tr *trial) (func() error, error) {
	member := tr.group.Members[onSmallDisk]
	path := filepath.Join(member.DataDir, "somebody's")
	if err := fill(path); err != nil {
		return nil, err
	}
	return func() error {
		if err := os.Remove(path); err != nil {
			return err
		}
		if err := tr.start(); err != nil {
			return err
		}
		return tr.disarm()
	}, nil
}}

func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return err
		}
	}
	return nil
}

// disarm takes back alarms until a write is taken: the member looks at its disk from time to time.
func (tr *trial) disarm() error {
	ctx, cancel := context.WithTimeout(tr.t.Context(), answerTimeout)
	defer cancel()
	maintenance := pb.NewMaintenanceClient(tr.connections[0])
	kv := pb.NewKVClient(tr.connections[onSmallDisk])
	for number := 0; ; number++ {
		alarms, err := maintenance.Alarm(ctx, &pb.AlarmRequest{}, grpc.WaitForReady(true))
		for _, alarm := range alarms.GetAlarms() {
			_, err = maintenance.Alarm(ctx, &pb.AlarmRequest{
				Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm,
			})
		}
		changes := events.Changes{"disarmed": fmt.Sprint(tr.round, " ", number)}
		done := &call{what: "put after the alarm", changes: changes, sent: tr.history.now()}
		var reply *pb.PutResponse
		reply, done.err = kv.Put(ctx, putRequest("disarmed", changes), grpc.WaitForReady(true))
		done.revision, done.answered = reply.GetHeader().GetRevision(), tr.history.now()
		tr.history.add(done)
		if done.err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no write after the disk has room again: %w, %w", err, done.err)
		}
		time.Sleep(pollInterval)
	}
}
