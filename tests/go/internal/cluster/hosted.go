package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"trilith.dev/tests/internal/hosts"
)

// NewGroupOn prepares a new cluster with a member on each of the first hosts, and starts none of
// them. The flags are those that etcd's guide to clusters on three machines shows. The clients are
// on the last host.
func NewGroupOn(t testing.TB, network *hosts.Network, programs ...Program) *Group {
	t.Helper()
	group := &Group{t: t, network: network}
	for i, program := range programs {
		group.addOn(network.Hosts[i], program, "new")
	}
	initial := "--initial-cluster=" + group.initialCluster()
	for _, member := range group.Members {
		member.args = append(member.args, initial)
	}
	return group
}

// JoinOn prepares one more member on a host of its own, for a cluster that runs already.
func (g *Group) JoinOn(host *hosts.Host, program Program) *Member {
	g.t.Helper()
	member := g.addOn(host, program, "existing")
	member.args = append(member.args, "--initial-cluster="+g.initialCluster())
	return member
}

// addOn prepares a member that does not know the others yet.
func (g *Group) addOn(host *hosts.Host, program Program, state string) *Member {
	name := fmt.Sprintf("etcd%d", len(g.Members)+1)
	peer := fmt.Sprintf("http://%s:2380", host.IP)
	member := prepare(g.t, program, Options{Wrapper: host.Wrapper()})
	// Where a member keeps its data by itself.
	member.DataDir = filepath.Join(member.folder, name+".etcd")
	member.Client, member.Name = host.IP+":2379", name
	member.connect = g.network.Clients().Dial
	member.args = []string{
		"--name", name,
		"--initial-advertise-peer-urls", peer, "--listen-peer-urls", peer,
		"--listen-client-urls", fmt.Sprintf("http://%s,http://127.0.0.1:2379", member.Client),
		"--advertise-client-urls", "http://" + member.Client,
		"--initial-cluster-token", "etcd-cluster",
		"--initial-cluster-state=" + state,
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
