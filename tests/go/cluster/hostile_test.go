package cluster

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"trilith.dev/tests/internal/cluster"
	"trilith.dev/tests/internal/hostile"
)

// Whoever reaches a peer URL and knows the ids may send what he likes: the cluster goes on serving,
// and no memory is given to lengths that are only announced.
func TestHostilePeersDoNoHarm(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	group.Leader()
	connection := group.Dial()
	put(t, connection, "before", "x")
	target := group.Members[0]
	address := strings.TrimPrefix(group.PeerURL(0), "http://")
	before, err := target.ResidentBytes()
	if err != nil {
		t.Fatal(err)
	}
	clusterID, memberID, otherID := ids(t, group)
	ctx := t.Context()
	attacks := hostile.Attacks(clusterID, memberID, otherID)
	for name, attack := range attacks {
		for range 20 {
			if err := hostile.Strike(ctx, new(net.Dialer).DialContext, address, attack); err != nil {
				t.Fatal(err)
			}
		}
		if !target.Alive() {
			t.Fatalf("%s: the member has died:\n%s", name, target.Log())
		}
	}
	put(t, connection, "after", "x")
	for _, member := range group.Members {
		expect(t, member.Dial(), "after", "x")
	}
	sameHashes(t, group)
	if after, err := target.ResidentBytes(); err != nil || after > before+128<<20 {
		t.Errorf("resident memory went from %d to %d bytes (%v)", before, after, err)
	}
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

// An answer that never comes is given up, and one that says too much too.
func TestAPeerThatAnswersNonsenseIsLeftAlone(t *testing.T) {
	t.Parallel()
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
	sameHashes(t, group)
}
