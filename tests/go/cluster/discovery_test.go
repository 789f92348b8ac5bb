package cluster

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/hosts"
	"trilith.dev/tests/internal/names"
)

// zone names the members of a cluster on hosts, and those of two others.
func zone(network *hosts.Network) names.Zone {
	zone := names.Zone{Addresses: map[string]string{}}
	for i, host := range network.Hosts {
		target := fmt.Sprintf("m%d.cluster.test", i+1)
		zone.Addresses[target] = host.IP
		for _, service := range []string{
			"_etcd-server._tcp.cluster.test", "_etcd-server-blue._tcp.cluster.test",
		} {
			if i < 3 {
				zone.Services = append(zone.Services, names.Service{Name: service, Target: target, Port: 2380})
			}
		}
	}
	zone.Services = append(zone.Services,
		names.Service{Name: "_etcd-server._tcp.others.test", Target: "m2.cluster.test", Port: 2380},
		names.Service{Name: "_etcd-server._tcp.nowhere.test", Target: "nobody.test", Port: 2380},
		names.Service{Name: "_etcd-server-ssl._tcp.secure.test", Target: "m1.cluster.test", Port: 2380})
	return zone
}

// The members of a new cluster are found by DNS, and are then those that etcd finds.
func TestMembersAreDiscoveredByDNS(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	var found []string
	for _, programs := range [][]cluster.Program{
		cluster.Three(etcd), cluster.Three(subject), {etcd, subject, subject},
	} {
		network := hosts.New(t, 4, 1)
		network.UseNames(t, zone(network))
		group := cluster.NewGroupOn(t, network, programs...)
		for _, member := range group.Members {
			member.ReplaceArgs("--initial-cluster=", "--discovery-srv=cluster.test",
				"--discovery-srv-name=blue")
		}
		if err := group.Run(); err != nil {
			t.Fatal(err)
		}
		group.Leader()
		list, err := pb.NewClusterClient(group.Members[0].Dial()).MemberList(context20s(t),
			&pb.MemberListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list.Members, func(a, b *pb.Member) int { return strings.Compare(a.Name, b.Name) })
		list.Header.MemberId, list.Header.RaftTerm = 0, 0
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, string(text))
		put(t, group.Dial(), "key", "value")
		// DNS is asked by the first start alone.
		group.Members[1].Kill()
		group.Members[1].ReplaceArgs("--discovery-srv", "--discovery-srv=nothing.test")
		if err := group.Run(); err != nil {
			t.Fatal(err)
		}
		expect(t, group.Members[1].Dial(), "key", "value")
	}
	for _, other := range found[1:] {
		if difference := gocmp.Diff(found[0], other); difference != "" {
			t.Errorf("other members than etcd's:\n%s", difference)
		}
	}
}

// What DNS does not name is refused as by etcd: the same sentence, or where it is about what went
// wrong with a lookup, the same beginning of it.
func TestMembersThatDNSDoesNotNameAreRefused(t *testing.T) {
	t.Parallel()
	told := map[string]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		network := hosts.New(t, 2, 1)
		network.UseNames(t, zone(network))
		for _, domain := range []string{"others.test", "nowhere.test", "nothing.test", "secure.test"} {
			group := cluster.NewGroupOn(t, network, program)
			member := group.Members[0]
			member.ReplaceArgs("--initial-cluster=", "--discovery-srv="+domain)
			if err := member.Launch(); err != nil {
				t.Fatal(err)
			}
			exit, err := member.WaitExit(callTimeout)
			if err != nil || exit == nil {
				t.Fatalf("%s, %s: %v %v", program.Name, domain, exit, err)
			}
			log := strings.ReplaceAll(member.Log(), `\"`, `'`)
			text := regexp.MustCompile(`error setting up initial cluster: [^:"]*`).FindString(log)
			text, _, _ = strings.Cut(text, " lookup ")
			if before := told[domain]; before != "" && before != text || text == "" {
				t.Errorf("%s: etcd says %q, %s %q\n%s", domain, before, program.Name, text, member.Log())
			}
			told[domain] = text
		}
	}
	t.Log(told)
}
