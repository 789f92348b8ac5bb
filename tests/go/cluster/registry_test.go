package cluster

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"trilith.dev/tests/internal/cluster"
)

const registry = "/_etcd/registry/"

// service starts a discovery service with some keys, given as key, value, key, value.
func service(t *testing.T, program cluster.Program, pairs ...string) (*cluster.Member, *clientv3.Client) {
	t.Helper()
	member := cluster.Start(t, program, cluster.Options{})
	client := member.Connect(clientv3.Config{})
	for i := 0; i < len(pairs); i += 2 {
		if _, err := client.Put(context20s(t), registry+pairs[i], pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return member, client
}

// discovering makes members ask a service instead of reading --initial-cluster.
func discovering(members []*cluster.Member, endpoints, token string, more ...string) {
	for _, member := range members {
		member.ReplaceArgs("--initial-cluster=", append([]string{
			"--discovery-endpoints=" + endpoints, "--discovery-token=" + token,
		}, more...)...)
	}
}

// registered are the members that the service knows, by the hex ids in their keys.
func registered(t *testing.T, client *clientv3.Client, token string) map[string]string {
	t.Helper()
	prefix := registry + token + "/members/"
	found, err := client.Get(context20s(t), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]string{}
	for _, kv := range found.Kvs {
		members[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	return members
}

// refused starts a member that must end by itself, and returns the last error in its log.
func refused(t *testing.T, member *cluster.Member) string {
	t.Helper()
	if err := member.Launch(); err != nil {
		t.Fatal(err)
	}
	exit, err := member.WaitExit(callTimeout)
	if err != nil || exit == nil {
		t.Fatalf("%s was not refused: %v %v\n%s", member.Program.Name, exit, err, member.Log())
	}
	log := strings.ReplaceAll(member.Log(), `\"`, `'`)
	errors := regexp.MustCompile(`"error":"([^"]*)"`).FindAllStringSubmatch(log, -1)
	if len(errors) == 0 {
		t.Fatalf("%s gives no reason:\n%s", member.Program.Name, log)
	}
	return errors[len(errors)-1][1]
}

// Members find each other by the token, whoever keeps it and whoever they are, and the service then
// knows what etcd's members tell it. Who comes too late is told so; who has data does not ask.
func TestMembersAreDiscoveredByAService(t *testing.T) {
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	for _, c := range []struct {
		service cluster.Program
		members []cluster.Program
	}{
		{etcd, cluster.Three(etcd)},
		{etcd, cluster.Three(subject)},
		{etcd, []cluster.Program{etcd, subject, subject}},
		{subject, cluster.Three(subject)},
		{subject, []cluster.Program{subject, etcd, subject}},
	} {
		name := c.service.Name + "," + c.members[0].Name + "," + c.members[1].Name
		t.Run(name, func(t *testing.T) {
			keeper, client := service(t, c.service, "three/_config/size", "3")
			group := cluster.NewGroup(t, c.members...)
			discovering(group.Members, keeper.Client, "three")
			if err := group.Run(); err != nil {
				t.Fatal(err)
			}
			leader := group.Leader()
			put(t, group.Dial(), "key", "value")
			want := map[string]string{}
			list, err := pb.NewClusterClient(leader.Dial()).MemberList(context20s(t),
				&pb.MemberListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, member := range list.Members {
				want[fmt.Sprintf("%x", member.ID)] = member.Name + "=" + member.PeerURLs[0]
			}
			got := registered(t, client, "three")
			if len(want) != 3 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("registered are %v, and the members %v", got, want)
			}

			for _, program := range []cluster.Program{etcd, subject} {
				late := cluster.NewGroup(t, program)
				discovering(late.Members, keeper.Client, "three")
				const full = "failed to join discovery cluster (discovery: cluster is full)"
				if text := refused(t, late.Members[0]); text != full {
					t.Errorf("who comes too late to %s is told %q", program.Name, text)
				}
			}

			again := group.Members[1]
			keeper.Kill()
			again.Kill()
			if err := again.Run(); err != nil {
				t.Fatal(err)
			}
			expect(t, again.Dial(), "key", "value")
			const ignored = "discovery token is ignored since cluster already initialized"
			if !strings.Contains(again.Log(), ignored) {
				t.Errorf("%s does not tell that it asks nobody", again.Program.Name)
			}
		})
	}
}

// What the service does not know, or knows wrongly, is refused with etcd's texts.
func TestWhatTheServiceCannotTellIsRefusedAlike(t *testing.T) {
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	keeper, client := service(t, etcd,
		"letters/_config/size", "three", "zero/_config/size", "0", "negative/_config/size", "-1",
		"full/_config/size", "1", "full/members/1", "a=http://127.0.0.1:1")
	nobody := fmt.Sprintf("127.0.0.1:%d", cluster.FreePort(t))
	user := []string{"--discovery-user=a", "--discovery-password=b"}
	for _, c := range []struct {
		token, endpoint string
		args            []string
	}{
		{"missing", keeper.Client, nil},
		{"letters", keeper.Client, nil},
		{"zero", keeper.Client, nil},
		{"negative", keeper.Client, nil},
		{"full", keeper.Client, nil},
		{"full", "http://" + keeper.Client, nil},
		{"/junk/../full/", nobody + "," + keeper.Client, nil},
		// A service without authentication takes whoever comes.
		{"full", keeper.Client, user},
		{"junk", keeper.Client, nil},
		{"twice", keeper.Client, nil},
		{"full", keeper.Client, []string{"--initial-cluster-state=existing"}},
		{"full", nobody, append([]string{"--discovery-dial-timeout=300ms"}, user...)},
	} {
		var told []string
		for _, program := range []cluster.Program{etcd, subject} {
			group := cluster.NewGroup(t, program)
			token := c.token
			if token == "twice" || token == "junk" {
				// Who registers fills the cluster, so each program gets one of its own.
				token += program.Name
				other := map[string]string{"twice": "a=" + group.PeerURL(0), "junk": "a=junk"}
				for key, value := range map[string]string{
					"_config/size": "2", "members/1": other[c.token],
				} {
					_, err := client.Put(context20s(t), registry+token+"/"+key, value)
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			discovering(group.Members, c.endpoint, token, c.args...)
			text := refused(t, group.Members[0])
			told = append(told, strings.ReplaceAll(text, group.PeerURL(0), "OWN"))
			if strings.HasPrefix(text, "failed to join") &&
				!strings.Contains(group.Members[0].Log(), "do not reuse discovery token") {
				t.Errorf("%s does not advise to take another token", program.Name)
			}
		}
		if told[0] != told[1] {
			t.Errorf("%s %v: etcd says %q, Trilith %q", c.token, c.args, told[0], told[1])
		}
		t.Logf("%s %v: %s", c.token, c.args, told[0])
	}
}

// A service that asks for a password gets it from the first call to the watch; a wrong one is refused
// with its words. The password may stand behind the name, as etcd's help says, and as it does not read it.
func TestTheServiceMayAskWhoComes(t *testing.T) {
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	keeper, client := service(t, etcd, "two/_config/size", "2")
	ctx := context20s(t)
	for _, user := range []string{"root", "newcomer"} {
		if _, err := client.UserAdd(ctx, user, "secret"); err != nil {
			t.Fatal(err)
		}
		if _, err := client.RoleAdd(ctx, user); err != nil {
			t.Fatal(err)
		}
		if _, err := client.UserGrantRole(ctx, user, user); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.RoleGrantPermission(ctx, "newcomer", registry+"two/", registry+"two0",
		clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	root := keeper.Connect(clientv3.Config{Username: "root", Password: "secret"})

	var told []string
	for _, program := range []cluster.Program{etcd, subject} {
		group := cluster.NewGroup(t, program)
		discovering(group.Members, keeper.Client, "two",
			"--discovery-user=newcomer", "--discovery-password=wrong")
		told = append(told, refused(t, group.Members[0]))
	}
	if told[0] != told[1] {
		t.Errorf("etcd says %q, Trilith %q", told[0], told[1])
	}

	group := cluster.NewGroup(t, subject, subject)
	discovering(group.Members[:1], keeper.Client, "two",
		"--discovery-user=newcomer", "--discovery-password=secret", "--log-level=info")
	discovering(group.Members[1:], keeper.Client, "two", "--discovery-user=newcomer:secret")
	if err := group.Members[0].Launch(); err != nil {
		t.Fatal(err)
	}
	await(t, "the first member does not register", func() bool {
		return len(registered(t, root, "two")) == 1
	})
	if cluster.SubjectIsEtcd() {
		discovering(group.Members[1:], keeper.Client, "two",
			"--discovery-user=newcomer", "--discovery-password=secret")
	}
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	for _, member := range group.Members {
		if strings.Contains(member.Log(), "secret") && !cluster.SubjectIsEtcd() {
			t.Errorf("the password stands in the log:\n%s", member.Log())
		}
	}
}

// A service that is not there is asked again, and one that is gone while members wait for others may
// come back. A member that only waits can be stopped.
func TestAServiceThatIsNotThereIsWaitedFor(t *testing.T) {
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		keeper, client := service(t, program, "two/_config/size", "2")
		keeper.Kill()
		group := cluster.NewGroup(t, program, program)
		discovering(group.Members, keeper.Client, "two", "--discovery-request-timeout=1s")
		first := group.Members[0]
		if err := first.Launch(); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			"failed to get cluster size from discovery service", "context deadline exceeded",
			"retry connecting to discovery service", "cluster status check",
		} {
			await(t, program.Name+" does not say: "+text, func() bool {
				return strings.Contains(first.Log(), text)
			})
		}
		if err := keeper.Run(); err != nil {
			t.Fatal(err)
		}
		waiting := func() bool { return len(registered(t, client, "two")) == 1 }
		await(t, program.Name+" does not register", waiting)
		if err := first.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := first.Launch(); err != nil {
			t.Fatal(err)
		}
		keeper.Kill()
		if err := keeper.Run(); err != nil {
			t.Fatal(err)
		}
		if err := group.Run(); err != nil {
			t.Fatal(err)
		}
		put(t, group.Dial(), "key", "value")
	}
}

// A member that has lost its data would vote again where it has voted. etcd lets it, as long as the
// service still knows it.
func TestADiscoveredMemberWithoutItsDataIsRefused(t *testing.T) {
	if cluster.SubjectIsEtcd() {
		t.Skip("etcd starts it")
	}
	keeper, client := service(t, cluster.Reference(t), "three/_config/size", "3",
		"name/_config/size", "2", "name/members/1", "member0=http://127.0.0.1:1")
	group := cluster.NewGroup(t, cluster.Three(cluster.Subject(t))...)
	discovering(group.Members, keeper.Client, "three")
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	lost := group.Members[2]
	lost.Kill()
	if err := os.RemoveAll(lost.DataDir); err != nil {
		t.Fatal(err)
	}
	if text := refused(t, lost); !strings.Contains(text, "has already been bootstrapped") {
		t.Errorf("it is refused with %q", text)
	}
	if found := registered(t, client, "three"); len(found) != 3 {
		t.Errorf("registered are %v", found)
	}

	// Where etcd panics, a sentence: two members under one name would be one.
	namesakes := cluster.NewGroup(t, cluster.Subject(t))
	discovering(namesakes.Members, keeper.Client, "name")
	text := refused(t, namesakes.Members[0])
	if !strings.Contains(text, "has another member with the name") {
		t.Errorf("it is refused with %q", text)
	}
}
