package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/cluster"
)

// Whoever reaches a peer URL and knows the ids may send what he likes: the cluster goes on serving,
// and no memory is given to lengths that are only announced.
func TestHostilePeersDoNoHarm(t *testing.T) {
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	group.Leader()
	connection := group.Dial()
	put(t, connection, "before", "x")
	target := group.Members[0]
	address := strings.TrimPrefix(group.PeerURL(0), "http://")
	before := residentBytes(t, target)
	clusterID, memberID, otherID := ids(t, group)
	head := func(method, path string, more string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nX-Server-From: %x\r\n"+
			"X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\n"+
			"X-Etcd-Cluster-ID: %x\r\nX-Raft-To: %x\r\n%s\r\n",
			method, path, otherID, clusterID, memberID, more)
	}
	random := rand.New(rand.NewSource(1))
	noise := make([]byte, 4096)
	_, _ = random.Read(noise)
	forged := func(kind raftpb.MessageType, term uint64, from, to uint64) []byte {
		message := &raftpb.Message{
			Type: kind.Enum(), Term: proto.Uint64(term), From: proto.Uint64(from),
			To: proto.Uint64(to), Commit: proto.Uint64(1 << 62), Index: proto.Uint64(1 << 62),
		}
		bytes, err := proto.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	post := func(body []byte) []byte {
		length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
		return append([]byte(head("POST", "/raft", length)), body...)
	}
	huge := binary.BigEndian.AppendUint64(nil, 1<<60)
	attacks := map[string][]byte{
		"noise":             noise,
		"huge post":         []byte(head("POST", "/raft", "Content-Length: 1152921504606846976\r\n")),
		"huge chunk":        []byte(head("POST", "/raft", "Transfer-Encoding: chunked\r\n") + "ffffffffffff\r\n"),
		"noise in a post":   post(noise),
		"forged sender":     post(forged(raftpb.MsgHeartbeat, 2, 7, memberID)),
		"wrong receiver":    post(forged(raftpb.MsgHeartbeat, 2, otherID, 7)),
		"old term":          post(forged(raftpb.MsgApp, 1, otherID, memberID)),
		"local message":     post(forged(raftpb.MsgHup, 0, otherID, memberID)),
		"noise on a stream": append([]byte(head("GET", "/raft/stream/msgapp/"+strconv.FormatUint(otherID, 16), "")), noise...),
		"snapshot of noise": append([]byte(head("POST", "/raft/snapshot", "Transfer-Encoding: chunked\r\n")+"8\r\n"), huge...),
		"endless headers":   []byte("GET / HTTP/1.1\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000)),
	}
	for name, attack := range attacks {
		for range 20 {
			strike(t, address, attack)
		}
		if !target.Alive() {
			t.Fatalf("%s: the member has died:\n%s", name, target.Log())
		}
	}
	put(t, connection, "after", "x")
	for _, member := range group.Members {
		expect(t, member.Dial(), "after", "x")
	}
	if err := group.SameHashes(context20s(t)); err != nil {
		t.Fatal(err)
	}
	if after := residentBytes(t, target); after > before+128<<20 {
		t.Errorf("resident memory went from %d to %d bytes", before, after)
	}
}

// strike sends bytes and hangs up as soon as an answer has begun, or a moment later.
func strike(t *testing.T, address string, attack []byte) {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	// The member may hang up first.
	_, _ = connection.Write(attack)
	_ = connection.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, _ = connection.Read(make([]byte, 64))
}

// ids are those of the cluster, of the first member, and of another one.
func ids(t *testing.T, group *cluster.Group) (cluster, member, other uint64) {
	t.Helper()
	status := func(i int) (uint64, uint64) {
		header := read(t, group.Members[i]).Header
		return header.ClusterId, header.MemberId
	}
	cluster, member = status(0)
	_, other = status(1)
	return cluster, member, other
}

func residentBytes(t *testing.T, member *cluster.Member) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", member.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// An answer that never comes is given up, and one that says too much too.
func TestAPeerThatAnswersNonsenseIsLeftAlone(t *testing.T) {
	group := cluster.NewGroup(t, cluster.Three(cluster.Subject(t))...)
	// In the place of the third member stands somebody who answers everything with noise.
	listener, err := net.Listen("tcp", strings.TrimPrefix(group.PeerURL(2), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("\xff\x02noise", 1000))
	})}
	go func() { _ = server.Serve(listener) }()
	go func() { <-ctx.Done(); _ = server.Close() }()
	group.Members = group.Members[:2]
	if err := group.Run(); err != nil {
		t.Fatal(err)
	}
	group.Leader()
	put(t, group.Dial(), "key", "value")
	if err := group.SameHashes(context20s(t)); err != nil {
		t.Fatal(err)
	}
}
