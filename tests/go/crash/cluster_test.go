package crash

import (
	"testing"

	"trilith.dev/tests/internal/cluster"
)

// Each member is killed in turn, then the leader, then all at once.
func TestNothingIsLostByKillsInACluster(t *testing.T) {
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	round := 0
	tr := &trial{server: group, writes: 200, size: 64, fault: func() error {
		defer func() { round++ }()
		switch turn := round % 5; turn {
		case 3:
			group.Leader().Kill()
		case 4:
			for _, member := range group.Members {
				member.Kill()
			}
		default:
			group.Members[turn].Kill()
		}
		return nil
	}}
	if err := tr.run(t, rounds(t, 5, 200), pickSeed(t)); err != nil {
		t.Error(err)
	}
	ctx := t.Context()
	if err := group.SameHashes(ctx); err != nil {
		t.Error(err)
	}
}

func TestNothingIsLostByGracefulStopsInACluster(t *testing.T) {
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	tr := &trial{server: group, writes: 100, size: 64}
	tr.fault = func() error { return group.Leader().Stop() }
	if err := tr.run(t, rounds(t, 2, 20), pickSeed(t)); err != nil {
		t.Error(err)
	}
}
