package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/cluster"
)

// A log that is cut so soon makes whoever misses some hundred entries need a snapshot.
var shortLog = []string{"--snapshot-count=100", "--snapshot-catchup-entries=10", "--log-level=debug"}

// cutLogs sees to it that the members have forgotten what they have written: etcd cuts its log every
// 100 entries, Trilith when the state is durable, which a stop sees to.
func cutLogs(t *testing.T, group *cluster.Group, members ...*cluster.Member) {
	t.Helper()
	for _, member := range members {
		if member.Program.Name != cluster.Subject(t).Name {
			continue
		}
		before := cuts(member)
		if err := member.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := member.Run(); err != nil {
			t.Fatal(err)
		}
		await(t, "the member does not cut its log", func() bool { return cuts(member) != before })
	}
	group.LeaderAmong(members)
}

func cuts(member *cluster.Member) int {
	return strings.Count(member.Log(), "compacted Raft logs")
}

// installs tells how often the member has taken over a snapshot.
func installs(member *cluster.Member) int {
	return strings.Count(member.Log(), "applied snapshot")
}

// A member that was away for longer than the log of the others reaches back gets the whole state
// from the leader, of whichever program, and goes on from it: it serves, and it leads.
func TestAMemberThatWasAwayTooLongCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	for _, others := range []cluster.Program{etcd, subject} {
		t.Run("from "+others.Name, func(t *testing.T) {
			group := cluster.NewGroup(t, subject, others, others)
			group.AddArgs(shortLog...)
			if err := group.Run(); err != nil {
				t.Fatal(err)
			}
			away, rest := group.Members[0], group.Members[1:]
			away.Kill()
			group.LeaderAmong(rest)
			connection := rest[0].Dial()
			grant := &pb.LeaseGrantRequest{ID: 7, TTL: 1000}
			_, err := pb.NewLeaseClient(connection).LeaseGrant(context20s(t), grant, grpc.WaitForReady(true))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 300 {
				put(t, connection, fmt.Sprint("without", i%50), fmt.Sprint(i))
			}
			cutLogs(t, group, rest...)
			for i := range 20 {
				put(t, connection, fmt.Sprint("after", i), "x")
			}
			if err := away.Run(); err != nil {
				t.Fatal(err)
			}
			expect(t, away.Dial(), "without49", "299")
			sameHashes(t, group)
			if got := installs(away); got != 1 {
				t.Errorf("the member has applied %d snapshots", got)
			}
			leases, err := pb.NewLeaseClient(away.Dial()).LeaseLeases(context20s(t), &pb.LeaseLeasesRequest{})
			if err != nil || len(leases.Leases) != 1 || leases.Leases[0].ID != 7 {
				t.Errorf("the leases are %v (%v)", leases, err)
			}
			lead(t, group, away)
			put(t, away.Dial(), "led", "by the member that was away")
			sameHashes(t, group)
		})
	}
}

// What is posted as a snapshot and is none is refused, in etcd's words where etcd refuses it too, and
// changes nothing.
func TestSnapshotsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	told := map[string][]string{}
	for _, program := range []cluster.Program{cluster.Reference(t), cluster.Subject(t)} {
		group := cluster.StartGroup(t, cluster.Three(program)...)
		put(t, group.Dial(), "key", "value")
		post := poster{t: t, group: group}
		note := func(what, answer string) { told[program.Name] = append(told[program.Name], what+": "+answer) }
		note("asked for", post.send("GET", nil, nil))
		note("of another cluster", post.with("X-Etcd-Cluster-ID", "7").send("POST", nil, nil))
		note("of another version", post.with("X-Server-Version", "2.0.0").send("POST", nil, nil))
		note("nothing", post.send("POST", nil, nil))
		note("half a length", post.send("POST", nil, []byte{0, 0}))
		note("half a message", post.send("POST", nil, []byte{0, 0, 0, 0, 0, 0, 0, 9, 1}))
		note("a huge message", post.send("POST", nil, []byte{1, 0, 0, 0, 0, 0, 0, 0}))
		note("another message", post.send("POST", post.message(raftpb.MsgHeartbeat, 9, 1), nil))
	}
	compare(t, told)
}

func TestDamagedSnapshotsAreRefusedAndChangeNothing(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	for i := range 200 {
		put(t, group.Dial(), fmt.Sprint("key", i), strings.Repeat("value", 100))
	}
	target := group.Members[0]
	path := filepath.Join(t.TempDir(), "snapshot.db")
	etcdctl(t, "--endpoints="+target.Client, "snapshot", "save", path)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The file that members send has no checksum at its end.
	file = file[:len(file)-32]
	damaged := slices.Clone(file)
	for at := 16 << 10; at < 20<<10; at++ {
		damaged[at] ^= 0x5a
	}
	post := poster{t: t, group: group}
	ahead := post.message(raftpb.MsgSnap, 1<<40, 1000)
	for _, refused := range []struct {
		what    string
		message []byte
		file    []byte
		want    string
	}{
		{"nothing", ahead, nil, "failed to save KV snapshot"},
		{"noise", ahead, []byte(strings.Repeat("noise", 10000)), "failed to save KV snapshot"},
		{"a part", ahead, file[:len(file)/2], "failed to save KV snapshot"},
		{"damaged", ahead, damaged, "failed to save KV snapshot"},
		{"another state", ahead, file, "and it was sent as that of entry 1099511627776"},
		{"no state", post.message(raftpb.MsgSnap, 0, 1000), file, "the message names no snapshot"},
	} {
		answer := post.send("POST", refused.message, refused.file)
		if !strings.HasPrefix(answer, "500 ") || !strings.Contains(answer, refused.want) {
			t.Errorf("%s: %s", refused.what, answer)
		}
	}
	if answer := post.send("POST", post.message(raftpb.MsgSnap, 1, 1), file); answer != "204 " {
		t.Errorf("one of what is here already: %s", answer)
	}
	post.cutOff(ahead, file)
	incoming := filepath.Join(target.DataDir, "member", "incoming")
	await(t, "what came of a snapshot is still there", func() bool {
		_, err := os.Stat(incoming)
		return os.IsNotExist(err)
	})
	put(t, target.Dial(), "after", "x")
	sameHashes(t, group)
	if got := installs(target); got != 0 {
		t.Errorf("the member has applied %d snapshots", got)
	}
}

// poster sends snapshots to the first member of a group, in the name of the second one.
type poster struct {
	t       *testing.T
	group   *cluster.Group
	headers [][2]string
}

func (p poster) with(header, value string) poster {
	p.headers = append(slices.Clone(p.headers), [2]string{header, value})
	return p
}

// message is a snapshot's or another one, with its length in front.
func (p poster) message(kind raftpb.MessageType, index, ofTerm uint64) []byte {
	_, member, other := ids(p.t, p.group)
	term := proto.Uint64(ofTerm)
	body, err := proto.Marshal(&raftpb.Message{
		Type: kind.Enum(), Term: term, From: &other, To: &member,
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: &index, Term: term, ConfState: &raftpb.ConfState{},
		}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(len(body))), body...)
}

func (p poster) request(method string, body io.Reader) *http.Request {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, p.group.PeerURL(0)+"/raft/snapshot", body)
	if err != nil {
		p.t.Fatal(err)
	}
	clusterID, _, other := ids(p.t, p.group)
	for _, header := range append([][2]string{
		{"X-Server-From", fmt.Sprintf("%x", other)},
		{"X-Server-Version", "3.7.3"},
		{"X-Min-Cluster-Version", "3.0.0"},
		{"X-Etcd-Cluster-ID", fmt.Sprintf("%x", clusterID)},
	}, p.headers...) {
		request.Header.Set(header[0], header[1])
	}
	return request
}

// send posts a message and a file, and returns status and text of the answer.
func (p poster) send(method string, message, file []byte) string {
	p.t.Helper()
	request := p.request(method, io.MultiReader(bytes.NewReader(message), bytes.NewReader(file)))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprint(answer.StatusCode, " ", string(text))
}

// cutOff posts a message and the first half of a file, and hangs up.
func (p poster) cutOff(message, file []byte) {
	p.t.Helper()
	half := io.MultiReader(bytes.NewReader(message), bytes.NewReader(file[:len(file)/2]), brokenReader{})
	if answer, err := http.DefaultClient.Do(p.request("POST", half)); err == nil {
		p.t.Errorf("a body that was cut off is answered with %s", answer.Status)
		answer.Body.Close()
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the sender has died") }

// A member that is killed while it takes over a snapshot, at whatever moment and again and again,
// comes back with its old state or the new one, and catches up in the end.
func TestAMemberIsKilledWhileItTakesOverASnapshot(t *testing.T) {
	t.Parallel()
	rounds := 8
	if cluster.Soak() {
		rounds = 300
	}
	etcd, subject := cluster.Reference(t), cluster.Subject(t)
	// A member that has sent a snapshot keeps its log for 30 s; others lead meanwhile.
	group := cluster.NewGroup(t, subject, etcd, etcd, etcd, etcd)
	group.AddArgs(shortLog...)
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	victim, connection := group.Members[0], group.Members[1].Dial()
	value := strings.Repeat("value", 1000)
	// What it says on the way, in order.
	stations := []string{
		"receiving database snapshot", "received and saved database snapshot",
		"starting again, with the state of a snapshot", "applied snapshot",
	}
	reached := 0
	for round := range rounds {
		victim.Kill()
		lead(t, group, group.Members[1+round%4])
		// More than the log keeps: it needs a snapshot.
		for i := range 150 {
			put(t, connection, fmt.Sprint("round", round%3, "/", i), value)
		}
		if passes(t, victim, stations[round%len(stations)]) {
			reached++
		}
		// Anywhere up to the next station, or a little beyond.
		<-time.After(time.Duration(random.Intn(60)) * time.Millisecond)
	}
	victim.Kill()
	if err := victim.Run(); err != nil {
		t.Fatal(err)
	}
	if reached < len(stations) {
		t.Errorf("only %d of %d kills came while it took over a snapshot", reached, rounds)
	}
	put(t, victim.Dial(), "after", "all")
	sameHashes(t, group)
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	checked, err := exec.Command(victim.Program.Path, "check", victim.DataDir).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, checked)
	}
	if _, err := os.Stat(filepath.Join(victim.DataDir, "member", "incoming")); !os.IsNotExist(err) {
		t.Errorf("something is left of a snapshot: %v", err)
	}
}

// passes starts a member and waits until it says what it says at a station of its way; false if it
// has caught up without passing there.
func passes(t *testing.T, member *cluster.Member, station string) bool {
	t.Helper()
	const served = "ready to serve client requests"
	before := member.Log()
	if err := member.Launch(); err != nil {
		t.Fatal(err)
	}
	for ctx := context20s(t); ; time.Sleep(pollInterval) {
		said := strings.TrimPrefix(member.Log(), before)
		if strings.Contains(said, station) {
			return true
		}
		if strings.Contains(said, served) {
			return false
		}
		if ctx.Err() != nil || !member.Alive() {
			t.Fatalf("it never says %q", station)
		}
	}
}
