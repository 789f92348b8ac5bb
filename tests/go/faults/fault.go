package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/hostile"
	"trilith.dev/tests/internal/hosts"
)

// fault is one way to hurt a cluster.
type fault struct {
	name string
	// strike hurts, and returns what heals it.
	strike func(*trial) (heal func() error, err error)
}

// anyMember is the number of one member; aFollower that of one which does not lead.
func anyMember(tr *trial) int { return tr.random.Intn(members) }

func theLeader(tr *trial) int { return slices.Index(tr.group.Members, tr.group.Leader()) }

func aFollower(tr *trial) int { return (theLeader(tr) + 1 + tr.random.Intn(members-1)) % members }

func killing(name string, which func(*trial) []int) fault {
	return fault{name, func(tr *trial) (func() error, error) {
		for _, number := range which(tr) {
			tr.group.Members[number].Kill()
		}
		return tr.start, nil
	}}
}

func one(which func(*trial) int) func(*trial) []int {
	return func(tr *trial) []int { return []int{which(tr)} }
}

func all(*trial) []int { return []int{0, 1, 2} }

func pausing(name string, which func(*trial) []int) fault {
	return fault{name, func(tr *trial) (func() error, error) {
		paused := which(tr)
		for _, number := range paused {
			if err := tr.group.Members[number].Pause(); err != nil {
				return nil, err
			}
		}
		return func() error {
			for _, number := range paused {
				if err := tr.group.Members[number].Resume(); err != nil {
					return err
				}
			}
			return nil
		}, nil
	}}
}

// cutting cuts the ways between the members for which it says so.
func cutting(name string, which func(*trial) int, cuts func(from, to, which int) bool) fault {
	return fault{name, func(tr *trial) (func() error, error) {
		chosen := which(tr)
		for from := range members {
			for to := range members {
				if cuts(from, to, chosen) {
					tr.network.Set(from, to, hosts.Conditions{Cut: true})
				}
			}
		}
		return tr.repairNetwork, nil
	}}
}

func (tr *trial) repairNetwork() error {
	tr.network.SetAmong([]int{0, 1, 2}, hosts.Conditions{})
	return nil
}

func toOrFrom(from, to, which int) bool { return from == which || to == which }
func fromOne(from, _, which int) bool   { return from == which }
func toOne(_, to, which int) bool       { return to == which }
func everything(_, _, _ int) bool       { return true }
func toOrFromNext(from, to, one int) bool {
	return from == one && to == next(one) || to == one && from == next(one)
}
func next(number int) int { return (number + 1) % members }

// slowAndLossy is a long way over a bad network.
var slowAndLossy = fault{"200 ms delay and 2 % loss", func(tr *trial) (func() error, error) {
	tr.network.SetAmong([]int{0, 1, 2}, hosts.Conditions{Delay: 200 * time.Millisecond, Loss: 0.02})
	return tr.repairNetwork, nil
}}

var lossy = fault{"30 % loss", func(tr *trial) (func() error, error) {
	tr.network.SetAmong([]int{0, 1, 2}, hosts.Conditions{Loss: 0.3})
	return tr.repairNetwork, nil
}}

// leftBehind lets a follower miss more than the log keeps, so that it has to be sent the whole state:
// the others are stopped in turn, which makes their states durable, and cuts their logs.
var leftBehind = fault{"a follower is left behind", func(tr *trial) (func() error, error) {
	number := aFollower(tr)
	behind := tr.group.Members[number]
	behind.Kill()
	tr.awaitWrites("before the log is cut")
	for _, other := range tr.group.Members {
		if other == behind {
			continue
		}
		before := logged(other, cutLog)
		if err := other.Stop(); err != nil {
			return nil, err
		}
		if err := other.Run(); err != nil {
			return nil, err
		}
		// etcd has cut its log already.
		ours := other.Program == cluster.Subject(tr.t)
		for deadline := time.Now().Add(answerTimeout); ours && logged(other, cutLog) == before; {
			if time.Now().After(deadline) {
				return nil, fmt.Errorf("%s does not cut its log", other.Client)
			}
			time.Sleep(pollInterval)
		}
	}
	tr.behind, tr.installed = behind, logged(behind, tookState)
	return tr.start, nil
}}

// wiped loses all that it had; it is removed, and a new member takes its place and its addresses.
var wiped = fault{"a wiped member is replaced", func(tr *trial) (func() error, error) {
	number := anyMember(tr)
	member := tr.group.Members[number]
	before := logged(member, tookState)
	member.Kill()
	if err := wipe(member.DataDir); err != nil {
		return nil, err
	}
	return func() error {
		if err := tr.replace(number); err != nil {
			return err
		}
		member.ReplaceArgs("--initial-cluster-state", "--initial-cluster-state=existing")
		if err := tr.start(); err != nil {
			return err
		}
		if err := member.WaitReady(); err != nil {
			return err
		}
		// The log of the others may or may not reach back to its beginning.
		tr.t.Logf("the new member was sent %d states", logged(member, tookState)-before)
		return nil
	}, nil
}}

// wipe leaves nothing in a data directory, which may be where a disk is mounted.
func wipe(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(folder, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// replace removes a member that is lost from the cluster, and adds a new one with its peer URL. Each
// step is tried until the list of the members shows it: a call without an answer may be done.
func (tr *trial) replace(number int) error {
	ctx, cancel := context.WithTimeout(tr.t.Context(), answerTimeout)
	defer cancel()
	api := pb.NewClusterClient(tr.connections[next(number)])
	url := tr.group.PeerURL(number)
	var lost uint64
	for {
		list, err := api.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
		at := slices.IndexFunc(list.GetMembers(), func(listed *pb.Member) bool {
			return slices.Contains(listed.PeerURLs, url)
		})
		switch {
		case err != nil:
		case at < 0:
			_, err = api.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{url}})
		case lost == 0 || lost == list.Members[at].ID:
			lost = list.Members[at].ID
			_, err = api.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: lost})
		default:
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the member is not replaced: %w", err)
		}
		// Until all have known each other for as long as etcd wants.
		time.Sleep(10 * pollInterval)
	}
}

// What members log, as etcd does, when they cut their logs, and when they have taken over the whole
// state from the leader.
const cutLog, tookState = "compacted Raft logs", "applied snapshot"

func logged(member *cluster.Member, text string) int {
	return strings.Count(member.Log(), text)
}

// failingSync lets the next syncs of the leader fail. It must not go on after that.
var failingSync = fault{"a failed fsync on the leader", func(tr *trial) (func() error, error) {
	leader := tr.group.Leader()
	tracer := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", fmt.Sprint(leader.Pid()),
		"-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=1+")
	if err := tracer.Start(); err != nil {
		return nil, err
	}
	exit, err := leader.WaitExit(exitTimeout)
	if err != nil {
		_ = tracer.Process.Kill()
		return nil, fmt.Errorf("after a failed sync the leader is %w", err)
	}
	// It ends with what it traces; its own exit code says nothing.
	_ = tracer.Wait()
	if exit == nil {
		return nil, fmt.Errorf("after a failed sync the exit code says success")
	}
	if !strings.Contains(strings.ToLower(leader.Log()), "input/output error") {
		return nil, fmt.Errorf("nothing tells of a failed sync:\n%.3000s", leader.Log())
	}
	return tr.start, nil
}}

// garbage is sent to all members by somebody who knows their ids.
var garbage = fault{"garbage for all members", func(tr *trial) (func() error, error) {
	ctx, cancel := context.WithCancel(tr.t.Context())
	ids, clusterID, err := tr.group.IDs()
	if err != nil {
		cancel()
		return nil, err
	}
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		return tr.network.Clients().Dial(ctx, address)
	}
	ended := make(chan error, 1)
	go func() {
		for to := 0; ; to = next(to) {
			address := strings.TrimPrefix(tr.group.PeerURL(to), "http://")
			for name, attack := range hostile.Attacks(clusterID, ids[to], ids[next(to)]) {
				err := hostile.Strike(ctx, dial, address, attack)
				if ctx.Err() != nil {
					ended <- nil
					return
				}
				if err != nil {
					ended <- fmt.Errorf("%s: %w", name, err)
					return
				}
			}
		}
	}()
	return func() error { cancel(); return <-ended }, nil
}}
