package cluster

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/hostile"
)

// served are the families that are there so far; the client's bytes are not.
var served = regexp.MustCompile(`^etcd_(network_(known|active|disconnected)_peers|network_peer_|` +
	`network_snapshot_|network_server_stream_|server_(has_leader|is_leader|is_learner|id|` +
	`leader_changes_seen_total|heartbeat_send_failures_total|learner_promote_\w+)$)`)

// scrape is what a member counts: the samples by name and labels, and the shapes of the families.
type scrape struct {
	samples map[string]float64
	shapes  map[string]string
}

var sample = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? (\S+)$`)

func scraped(t *testing.T, member *cluster.Member) scrape {
	t.Helper()
	answer, err := http.Get("http://" + member.Client + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	kind := answer.Header.Get("Content-Type")
	if err != nil || answer.StatusCode != 200 || !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		t.Fatalf("%s: %s %s: %v", member.Program.Name, answer.Status, kind, err)
	}
	found := scrape{map[string]float64{}, map[string]string{}}
	family, said := "", map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if rest, ok := strings.CutPrefix(line, "# "); ok {
			words := strings.SplitN(rest, " ", 3)
			family = words[1]
			said[family] = append(said[family], words[0]+" "+words[2])
			continue
		}
		parts := sample.FindStringSubmatch(line)
		if parts == nil {
			t.Fatalf("%s: no sample: %q", member.Program.Name, line)
		}
		value, err := strconv.ParseFloat(parts[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		found.samples[parts[1]+"{"+parts[2]+"}"] = value
		for _, label := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(parts[2], -1) {
			word := label[1]
			if word == "le" {
				word += "=" + label[2]
			}
			if !slices.Contains(said[family], word) {
				said[family] = append(said[family], word)
			}
		}
	}
	for family, words := range said {
		if served.MatchString(family) {
			found.shapes[family] = strings.Join(words, "\n")
		}
	}
	return found
}

// sum adds up a family, or those of its samples whose labels contain a text.
func (s scrape) sum(family, labels string) float64 {
	total := 0.0
	for name, value := range s.samples {
		if strings.HasPrefix(name, family+"{") && strings.Contains(name, labels) {
			total += value
		}
	}
	return total
}

// junk passes for any message and is none.
type junk struct{ encoding.Codec }

func (junk) Name() string                { return "proto" }
func (junk) Marshal(any) ([]byte, error) { return []byte{0xff}, nil }
func (junk) Unmarshal([]byte, any) error { return nil }

// What a cluster counts of its members, it counts under etcd's names, with etcd's labels, buckets
// and words; and what happens shows in it.
func TestMembersCountWhatEtcdCounts(t *testing.T) {
	var shapes []map[string]string
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		shapes = append(shapes, counted(t, program))
	}
	// They need a transfer that breaks off, which other tests are about, and a broken transport.
	for _, rare := range []string{
		"etcd_network_snapshot_send_failures", "etcd_network_server_stream_failures_total",
	} {
		if _, ok := shapes[0][rare]; !ok {
			delete(shapes[1], rare)
		}
	}
	if difference := gocmp.Diff(shapes[0], shapes[1]); difference != "" {
		t.Errorf("the families differ (-etcd +trilith):\n%s", difference)
	}
	if len(shapes[0]) < 22 {
		t.Errorf("etcd has only %d families", len(shapes[0]))
	}
}

// counted lets all that is counted happen in a cluster, and returns the shapes of the families.
func counted(t *testing.T, program cluster.Program) map[string]string {
	group := cluster.NewGroup(t, cluster.Three(program)...)
	group.AddArgs(shortLog...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	group.Leader()
	behind := group.Members[2]
	behind.Kill()
	connection := group.Dial()
	for i := range 300 {
		put(t, connection, fmt.Sprint(i), "value")
	}
	cutLogs(t, group, group.Members[:2]...)
	if err := behind.Run(); err != nil {
		t.Fatal(err)
	}
	leader := group.Leader()
	members := ids3(t, group)
	late := fmt.Sprintf(`="%x"`, members[2])
	for _, what := range []string{"success", "total_duration_seconds_count"} {
		grows(t, leader, "etcd_network_snapshot_send_"+what, "To"+late)
		grows(t, behind, "etcd_network_snapshot_receive_"+what, "From=")
	}
	// Not the one that got the snapshot: it would have to count anew.
	away := slices.IndexFunc(group.Members, func(m *cluster.Member) bool {
		return m != leader && m != behind
	})
	gone := group.Members[away]
	gone.Kill()
	other := fmt.Sprintf(`="%x"`, members[away])
	grows(t, leader, "etcd_network_disconnected_peers_total", "Remote"+other)
	if active := scraped(t, leader).sum("etcd_network_active_peers", "Remote"+other); active != 0 {
		t.Errorf("%s: a peer that is gone is active: %v", program.Name, active)
	}
	grows(t, leader, "etcd_network_peer_sent_failures_total", "To"+other)
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	leader = group.Leader()
	attack(t, group, leader)
	learn(t, leader)
	grows(t, leader, "etcd_server_learner_promote_failures", "Reason=")
	grows(t, leader, "etcd_network_peer_round_trip_time_seconds_count", "To=")
	return standing(t, group, leader)
}

// grows waits until a member has counted something.
func grows(t *testing.T, member *cluster.Member, family, labels string) {
	t.Helper()
	await(t, member.Program.Name+" does not count "+family+" "+labels, func() bool {
		return scraped(t, member).sum(family, labels) > 0
	})
}

// attack sends the leader what no member and no client sends, and sees it counted.
func attack(t *testing.T, group *cluster.Group, leader *cluster.Member) {
	t.Helper()
	members, clusterID, err := group.IDs()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.Index(group.Members, leader)
	attacks := hostile.Attacks(clusterID, members[at], members[(at+1)%3])
	for what, family := range map[string]string{
		"noise in a post":   "etcd_network_peer_received_failures_total",
		"snapshot of noise": "etcd_network_snapshot_receive_failures",
	} {
		address := strings.TrimPrefix(group.PeerURL(at), "http://")
		err := hostile.Strike(t.Context(), new(net.Dialer).DialContext, address, attacks[what])
		if err != nil {
			t.Fatal(err)
		}
		grows(t, leader, family, "")
	}
	stream, err := pb.NewWatchClient(leader.Dial()).Watch(t.Context(), grpc.ForceCodec(junk{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.WatchRequest{}); err != nil {
		t.Fatal(err)
	}
	if leader.Program.Name != "etcd" {
		// etcd takes what it cannot read for a client that has gone.
		grows(t, leader, "etcd_network_server_stream_failures_total", `Type="receive"`)
	}
}

// learn adds a member that never comes, and fails to promote it.
func learn(t *testing.T, leader *cluster.Member) {
	t.Helper()
	members := pb.NewClusterClient(leader.Dial())
	var added *pb.MemberAddResponse
	// etcd wants everybody to have been there for a while.
	await(t, "no learner can be added", func() bool {
		var err error
		added, err = members.MemberAdd(context20s(t), &pb.MemberAddRequest{
			PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true,
		})
		return err == nil
	})
	_, err := members.MemberPromote(context20s(t), &pb.MemberPromoteRequest{ID: added.Member.ID})
	if err == nil {
		t.Fatal("a member that never came was promoted")
	}
}

// standing checks what each member says that it is, and returns the shapes of all families.
func standing(t *testing.T, group *cluster.Group, leader *cluster.Member) map[string]string {
	t.Helper()
	shapes := map[string]string{}
	for i, member := range group.Members {
		found := scraped(t, member)
		for family, shape := range found.shapes {
			if len(shape) > len(shapes[family]) {
				shapes[family] = shape
			}
		}
		own := fmt.Sprintf(`Local="%x"`, ids3(t, group)[i])
		leads := 0.0
		if member == leader {
			leads = 1
		}
		for _, want := range []struct {
			family, labels string
			sum            float64
		}{
			{"etcd_server_has_leader", "", 1},
			{"etcd_server_is_leader", "", leads},
			{"etcd_server_is_learner", "", 0},
			{"etcd_server_id", fmt.Sprintf(`server_id="%x"`, ids3(t, group)[i]), 1},
			{"etcd_network_known_peers", own, 4},
			{"etcd_network_active_peers", own, 2},
		} {
			await(t, fmt.Sprintf("%s: %v", member.Program.Name, want), func() bool {
				return scraped(t, member).sum(want.family, want.labels) == want.sum
			})
		}
		for _, family := range []string{
			"etcd_network_peer_sent_bytes_total", "etcd_network_peer_received_bytes_total",
			"etcd_server_leader_changes_seen_total",
		} {
			if found.sum(family, "") == 0 {
				t.Errorf("%s has not counted %s", member.Program.Name, family)
			}
		}
	}
	return shapes
}

func ids3(t *testing.T, group *cluster.Group) []uint64 {
	t.Helper()
	members, _, err := group.IDs()
	if err != nil {
		t.Fatal(err)
	}
	return members
}
