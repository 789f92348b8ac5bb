package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Place is a host of a member's own.
type Place struct {
	IP string
	// Wrapper is put in front of a program to run it there.
	Wrapper []string
}

// Connect opens a connection for the test's clients.
type Connect func(ctx context.Context, address string) (net.Conn, error)

// NewGroupAt prepares a new cluster with a member in each place, and starts none of them. The flags
// are those that etcd's guide to clusters on three machines shows.
func NewGroupAt(t testing.TB, places []Place, connect Connect, programs ...Program) *Group {
	t.Helper()
	group := &Group{t: t}
	for i, program := range programs {
		group.addAt(places[i], connect, program, "new")
	}
	initial := "--initial-cluster=" + group.initialCluster()
	for _, member := range group.Members {
		member.args = append(member.args, initial)
	}
	return group
}

// JoinAt prepares one more member in a place of its own, for a cluster that runs already.
func (g *Group) JoinAt(place Place, connect Connect, program Program) *Member {
	g.t.Helper()
	member := g.addAt(place, connect, program, "existing")
	member.args = append(member.args, "--initial-cluster="+g.initialCluster())
	return member
}

// addAt prepares a member that does not know the others yet.
func (g *Group) addAt(place Place, connect Connect, program Program, state string) *Member {
	name := fmt.Sprintf("etcd%d", len(g.Members)+1)
	peer := fmt.Sprintf("http://%s:2380", place.IP)
	member := prepare(g.t, program, Options{Wrapper: place.Wrapper})
	// Where a member keeps its data by itself.
	member.DataDir = filepath.Join(member.folder, name+".etcd")
	member.Client = place.IP + ":2379"
	member.connect = connect
	member.args = []string{
		"--name", name,
		"--initial-advertise-peer-urls", peer, "--listen-peer-urls", peer,
		"--listen-client-urls", fmt.Sprintf("http://%s,http://127.0.0.1:2379", member.Client),
		"--advertise-client-urls", "http://" + member.Client,
		"--initial-cluster-token", "etcd-cluster",
		"--initial-cluster-state", state,
		"--auto-compaction-retention=1",
		fmt.Sprintf("--quota-backend-bytes=%d", 4<<30),
	}
	g.peers = append(g.peers, peer)
	g.Members = append(g.Members, member)
	return member
}

// initialCluster are the members by name and peer URL.
func (g *Group) initialCluster() string {
	var members []string
	for i, peer := range g.peers {
		members = append(members, fmt.Sprintf("etcd%d=%s", i+1, peer))
	}
	return strings.Join(members, ",")
}
