package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"trilith.dev/tests/internal/hosts"
)

// Group is a cluster of several members on loopback, which talk to each other.
type Group struct {
	Members []*Member

	t testing.TB
	// By member, as Members.
	peers []string
	// Members that were ever prepared: each has a name of its own.
	made int
	// network is nil where all members are on loopback.
	network *hosts.Network
}

// NewGroup prepares a new cluster with one member of each program, and starts none of them.
func NewGroup(t testing.TB, programs ...Program) *Group {
	t.Helper()
	group := &Group{t: t}
	for _, program := range programs {
		group.prepare(program)
	}
	for i := range group.Members {
		group.setFlags(i, "new")
	}
	return group
}

// prepare makes one more member, without flags, and its peer URL.
func (g *Group) prepare(program Program) {
	member := prepare(g.t, program, Options{})
	member.Name = fmt.Sprintf("member%d", g.made)
	g.made++
	g.Members = append(g.Members, member)
	g.peers = append(g.peers, fmt.Sprintf("http://127.0.0.1:%d", FreePort(g.t)))
}

func (g *Group) setFlags(i int, state string) {
	var initial []string
	for i, member := range g.Members {
		initial = append(initial, fmt.Sprintf("%s=%s", member.Name, g.peers[i]))
	}
	member := g.Members[i]
	member.args = []string{
		"--name=" + member.Name,
		"--data-dir=" + member.DataDir,
		"--listen-client-urls=http://" + member.Client,
		"--advertise-client-urls=http://" + member.Client,
		"--listen-peer-urls=" + g.peers[i],
		"--initial-advertise-peer-urls=" + g.peers[i],
		"--initial-cluster=" + strings.Join(initial, ","),
		"--initial-cluster-state=" + state,
		"--initial-cluster-token=" + g.t.Name(),
		"--log-level=warn",
	}
}

// Joiner prepares one more member, for a cluster that runs already. It is to be started after
// somebody has added its peer URL to the cluster.
func (g *Group) Joiner(program Program) *Member {
	g.t.Helper()
	g.prepare(program)
	last := len(g.Members) - 1
	g.setFlags(last, "existing")
	return g.Members[last]
}

// Forget takes a member out of the group, which somebody removes from the cluster.
func (g *Group) Forget(member *Member) {
	i := slices.Index(g.Members, member)
	g.Members = slices.Delete(slices.Clone(g.Members), i, i+1)
	g.peers = slices.Delete(slices.Clone(g.peers), i, i+1)
}

// AddArgs gives every member more flags; they count from its next start on.
func (g *Group) AddArgs(args ...string) {
	for _, member := range g.Members {
		member.AddArgs(args...)
	}
}

// StartGroup starts a new cluster and waits until each of its members serves.
func StartGroup(t testing.TB, programs ...Program) *Group {
	t.Helper()
	group := NewGroup(t, programs...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	return group
}

// Three is the same program three times.
func Three(program Program) []Program { return slices.Repeat([]Program{program}, 3) }

// Run starts the members that do not run, and waits until all serve and agree on their version.
func (g *Group) Run() error {
	for _, member := range g.Members {
		if !member.Alive() {
			if err := member.Launch(); err != nil {
				return err
			}
		}
	}
	for _, member := range g.Members {
		if err := member.WaitReady(); err != nil {
			return err
		}
	}
	return nil
}

// Alive tells whether all members run.
func (g *Group) Alive() bool {
	return !slices.ContainsFunc(g.Members, func(m *Member) bool { return !m.Alive() })
}

// PeerURL is where a member listens for the others.
func (g *Group) PeerURL(i int) string { return g.peers[i] }

// Clients are the addresses of all members.
func (g *Group) Clients() string {
	var clients []string
	for _, member := range g.Members {
		clients = append(clients, member.Client)
	}
	return strings.Join(clients, ",")
}

// Dial opens a connection that spreads calls over all members that can be reached.
func (g *Group) Dial() *grpc.ClientConn {
	g.t.Helper()
	var addresses []resolver.Address
	for _, member := range g.Members {
		addresses = append(addresses, resolver.Address{Addr: member.Client})
	}
	all := manual.NewBuilderWithScheme("group")
	all.InitialState(resolver.State{Addresses: addresses})
	connection, err := grpc.NewClient(all.Scheme()+":///all",
		grpc.WithResolvers(all),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(g.Members[0].connect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(receiveLimit)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: pollInterval, Multiplier: 1.5, MaxDelay: time.Second / 5,
			},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { connection.Close() })
	return connection
}

// Leader waits until all members that run see the same leader among them, and returns it.
func (g *Group) Leader() *Member {
	g.t.Helper()
	return g.LeaderAmong(g.Members)
}

// LeaderAmong waits until those of the given members that run see the same leader among them.
func (g *Group) LeaderAmong(members []*Member) *Member {
	g.t.Helper()
	var problem error
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		leader, err := leaderOf(members)
		if err == nil {
			return leader
		}
		problem = err
		time.Sleep(pollInterval)
	}
	g.t.Fatalf("no leader after %v: %v", startTimeout, problem)
	return nil
}

// AwaitAnswers waits until all members that run answer at all, with or without a leader.
func (g *Group) AwaitAnswers() {
	g.t.Helper()
	deadline := time.Now().Add(startTimeout)
	for _, member := range g.Members {
		for member.Alive() {
			_, err := member.status()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				g.t.Fatalf("%s does not answer: %v\n%s", member.Client, err, tail(member.Log(), 20))
			}
			time.Sleep(pollInterval)
		}
	}
}

func leaderOf(members []*Member) (*Member, error) {
	var leader *Member
	leaders := map[uint64]bool{}
	for _, member := range members {
		if !member.Alive() {
			continue
		}
		status, err := member.status()
		if err != nil {
			return nil, err
		}
		leaders[status.Leader] = true
		if status.Leader == status.Header.MemberId {
			leader = member
		}
	}
	if len(leaders) != 1 || leader == nil {
		return nil, fmt.Errorf("the members see these leaders: %v", leaders)
	}
	return leader, nil
}

func (m *Member) status() (*pb.StatusResponse, error) {
	connection, err := m.dial()
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return pb.NewMaintenanceClient(connection).Status(ctx, &pb.StatusRequest{})
}

// IDs are those of the members, in their order, and that of the cluster.
func (g *Group) IDs() (members []uint64, cluster uint64, err error) {
	for _, member := range g.Members {
		status, err := member.status()
		if err != nil {
			return nil, 0, err
		}
		members, cluster = append(members, status.Header.MemberId), status.Header.ClusterId
	}
	return members, cluster, nil
}

// SameHashes compares the data of all members that run, as of the current revision.
func (g *Group) SameHashes(ctx context.Context) error {
	revision := int64(0)
	hashes := map[uint32][]string{}
	for _, member := range g.Members {
		if !member.Alive() {
			continue
		}
		connection, err := member.dial()
		if err != nil {
			return err
		}
		defer connection.Close()
		// After a linearizable read the member has all that was acknowledged before.
		read, err := readThroughElections(ctx, pb.NewKVClient(connection))
		if err != nil {
			return fmt.Errorf("reading from %s: %w", member.Program.Name, err)
		}
		if revision == 0 {
			revision = read.Header.Revision
		}
		hash, err := pb.NewMaintenanceClient(connection).HashKV(ctx,
			&pb.HashKVRequest{Revision: revision})
		if err != nil {
			return fmt.Errorf("hashing %s: %w", member.Program.Name, err)
		}
		hashes[hash.Hash] = append(hashes[hash.Hash], member.Program.Name+" "+member.Client)
	}
	if revision <= 1 {
		return errors.New("there is nothing to compare")
	}
	if len(hashes) != 1 {
		return fmt.Errorf("the data differ at revision %d: %v", revision, hashes)
	}
	return nil
}

// readThroughElections reads once there is a leader: on a busy machine one may be deposed at any
// time, which a client is told, and tries again.
func readThroughElections(ctx context.Context, kv pb.KVClient) (*pb.RangeResponse, error) {
	for {
		read, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("x")}, grpc.WaitForReady(true))
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return read, err
		}
		time.Sleep(pollInterval)
	}
}
