package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/hosts"
)

const (
	callTimeout  = 20 * time.Second
	exitTimeout  = 60 * time.Second
	pollInterval = 10 * time.Millisecond
)

// console runs etcdctl on the host of the clients, with all members as its endpoints.
type console struct {
	t    *testing.T
	host *hosts.Host
	// The client addresses that the next command gets.
	endpoints []string
}

func (c *console) try(args ...string) (string, error) {
	c.t.Helper()
	command := append(c.host.Wrapper(), cluster.Tool(c.t, "etcdctl"),
		"--endpoints="+strings.Join(c.endpoints, ","))
	command = append(command, args...)
	ctx, cancel := context.WithTimeout(c.t.Context(), callTimeout)
	defer cancel()
	output, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	return string(output), err
}

func (c *console) run(args ...string) string {
	c.t.Helper()
	output, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return output
}

// until repeats a command that is refused with a certain text for some time, as by a member that is
// not in step yet.
func (c *console) until(refusal string, args ...string) string {
	c.t.Helper()
	for {
		output, err := c.try(args...)
		if err == nil {
			return output
		}
		if !strings.Contains(output, refusal) {
			c.t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, output)
		}
		time.Sleep(pollInterval)
	}
}

// id is that of a member, as etcdctl prints it.
func (c *console) id(name string) string {
	c.t.Helper()
	list := c.run("member", "list")
	for line := range strings.Lines(list) {
		if fields := strings.Split(line, ", "); len(fields) > 2 && fields[2] == name {
			return fields[0]
		}
	}
	c.t.Fatalf("%s is not in\n%s", name, list)
	return ""
}

// A cluster is founded on three hosts by the flags of etcd's guide, and the stock tools run it: they
// see it, move its leader, add, promote, update and remove a member, and take snapshots.
func TestStockToolsRunAClusterOnThreeHosts(t *testing.T) {
	network := hosts.New(t, 5, 1)
	group := cluster.NewGroupOn(t, network, cluster.Three(cluster.Subject(t))...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	group.Leader()
	c := &console{t: t, host: network.Clients()}
	for _, member := range group.Members {
		c.endpoints = append(c.endpoints, member.Client)
	}
	c.run("put", "key", "value")
	list := c.run("member", "list")
	for i, host := range network.Hosts[:3] {
		want := fmt.Sprintf(", started, etcd%d, http://%s:2380, http://%s:2379, false", i+1,
			host.IP, host.IP)
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	seeOneLeader(t, c, 3)
	moveLeader(t, c, group)
	changeMembers(t, c, group, network)
	saveSnapshots(t, c, group)
}

// seeOneLeader looks at the cluster as an operator does.
func seeOneLeader(t *testing.T, c *console, members int) {
	t.Helper()
	table := c.run("endpoint", "status", "--cluster", "-w", "table")
	leaders, rows, column := 0, 0, -1
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "│")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if column < 0 {
			column = slices.Index(cells, "IS LEADER")
		} else if len(cells) > column {
			rows++
			if cells[column] == "true" {
				leaders++
			}
		}
	}
	if rows != members || leaders != 1 {
		t.Errorf("%d members and %d leaders:\n%s", rows, leaders, table)
	}
	health := c.run("endpoint", "health", "--cluster")
	if strings.Count(health, "is healthy") != members {
		t.Errorf("not all are healthy:\n%s", health)
	}
}

func moveLeader(t *testing.T, c *console, group *cluster.Group) {
	t.Helper()
	leader := group.Leader()
	next := (slices.Index(group.Members, leader) + 1) % len(group.Members)
	output := c.run("move-leader", c.id(fmt.Sprintf("etcd%d", next+1)))
	if !strings.Contains(output, "Leadership transferred from") {
		t.Error(output)
	}
	if now := group.Leader(); now != group.Members[next] {
		t.Errorf("%s leads", now.Client)
	}
}

func changeMembers(t *testing.T, c *console, group *cluster.Group, network *hosts.Network) {
	t.Helper()
	peer := fmt.Sprintf("http://%s:2380", network.Hosts[3].IP)
	added := c.until("unhealthy cluster", "member", "add", "etcd4", "--learner", "--peer-urls="+peer)
	if !strings.Contains(added, "ETCD_INITIAL_CLUSTER_STATE=\"existing\"") {
		t.Error(added)
	}
	// A member of etcd's own, which also shows that the two work together.
	joiner := group.JoinOn(network.Hosts[3], cluster.Reference(t))
	if err := joiner.Launch(); err != nil {
		t.Fatal(err)
	}
	id := strings.Fields(added)[1]
	c.until("in sync with leader", "member", "promote", id)
	if err := joiner.WaitReady(); err != nil {
		t.Fatal(err)
	}
	seeOneLeader(t, c, 4)
	moved := strings.Replace(peer, ":2380", ":2381", 1)
	c.run("member", "update", id, "--peer-urls="+moved)
	if list := c.run("member", "list"); !strings.Contains(list, moved) {
		t.Errorf("no %s in\n%s", moved, list)
	}
	c.run("member", "update", id, "--peer-urls="+peer)
	c.until("unhealthy cluster", "member", "remove", id)
	if _, err := joiner.WaitExit(exitTimeout); err != nil {
		t.Errorf("the removed member: %v", err)
	}
	group.Members = group.Members[:3]
	seeOneLeader(t, c, 3)
}

func saveSnapshots(t *testing.T, c *console, group *cluster.Group) {
	t.Helper()
	all := c.endpoints
	for _, member := range group.Members {
		c.endpoints = []string{member.Client}
		// The member has all of it after a linearizable read.
		c.run("get", "key")
		path := filepath.Join(t.TempDir(), "snapshot.db")
		c.run("snapshot", "save", path)
		output, err := exec.Command(cluster.Tool(t, "etcdutl"), "snapshot", "status", path,
			"-w", "json").CombinedOutput()
		var status struct{ Revision, TotalKey int }
		if err == nil {
			err = json.Unmarshal(output, &status)
		}
		if err != nil || status.Revision != 2 || status.TotalKey != 1 {
			t.Errorf("the snapshot of %s: %v %s", member.Client, err, output)
		}
	}
	c.endpoints = all
}
