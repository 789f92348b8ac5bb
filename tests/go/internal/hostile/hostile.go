// Package hostile is what somebody may send to a peer URL who can reach it and knows all ids.
package hostile

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand"
	"net"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// hangUp is how long an answer is waited for.
const hangUp = 20 * time.Millisecond

// target are the ids that an attack on a member names.
type target struct{ cluster, member, other uint64 }

// Attacks are bytes to send to a member, in the name of another one.
func Attacks(cluster, member, other uint64) map[string][]byte {
	to := target{cluster, member, other}
	random := rand.New(rand.NewSource(1))
	noise := make([]byte, 4096)
	_, _ = random.Read(noise)
	huge := binary.BigEndian.AppendUint64(nil, 1<<60)
	chunked := "Transfer-Encoding: chunked\r\n"
	stream := "/raft/stream/msgapp/" + strconv.FormatUint(other, 16)
	return map[string][]byte{
		"noise":             noise,
		"huge post":         to.head("POST", "/raft", "Content-Length: 1152921504606846976\r\n"),
		"huge chunk":        append(to.head("POST", "/raft", chunked), "ffffffffffff\r\n"...),
		"noise in a post":   to.post(noise),
		"forged sender":     to.post(forged(raftpb.MsgHeartbeat, 2, 7, member)),
		"wrong receiver":    to.post(forged(raftpb.MsgHeartbeat, 2, other, 7)),
		"old term":          to.post(forged(raftpb.MsgApp, 1, other, member)),
		"local message":     to.post(forged(raftpb.MsgHup, 0, other, member)),
		"noise on a stream": append(to.head("GET", stream, ""), noise...),
		"snapshot of noise": append(append(to.head("POST", "/raft/snapshot", chunked), "8\r\n"...), huge...),
		"endless headers": []byte("GET / HTTP/1.1\r\n" +
			strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000)),
	}
}

// head is the beginning of a request that passes for a member's.
func (to target) head(method, path, more string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: x\r\nX-Server-From: %x\r\n"+
		"X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\n"+
		"X-Etcd-Cluster-ID: %x\r\nX-Raft-To: %x\r\n%s\r\n",
		method, path, to.other, to.cluster, to.member, more)
}

func (to target) post(body []byte) []byte {
	return append(to.head("POST", "/raft", fmt.Sprintf("Content-Length: %d\r\n", len(body))), body...)
}

// forged is a message that claims that everything is committed.
func forged(kind raftpb.MessageType, term, from, to uint64) []byte {
	bytes, err := proto.Marshal(&raftpb.Message{
		Type: kind.Enum(), Term: proto.Uint64(term), From: proto.Uint64(from), To: proto.Uint64(to),
		Commit: proto.Uint64(1 << 62), Index: proto.Uint64(1 << 62),
	})
	if err != nil {
		panic(fmt.Sprintf("a message of plain numbers: %v", err))
	}
	return bytes
}

// Strike sends bytes and hangs up as soon as an answer has begun, or a moment later.
func Strike(ctx context.Context, connect func(context.Context, string, string) (net.Conn, error),
	address string, attack []byte,
) error {
	connection, err := connect(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	// The member may hang up first.
	_, _ = connection.Write(attack)
	_ = connection.SetReadDeadline(time.Now().Add(hangUp))
	_, _ = connection.Read(make([]byte, 64))
	return nil
}
