package crash

import (
	"slices"
	"testing"

	"trilith.dev/tests/internal/cluster"
)

// Each member is killed in turn, then the leader, then all at once.
func TestNothingIsLostByKillsInACluster(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	tr := &trial{server: group, writes: 100, size: 64}
	tr.fault = func() error { return group.Leader().Stop() }
	if err := tr.run(t, rounds(t, 2, 20), pickSeed(t)); err != nil {
		t.Error(err)
	}
}

// A leader that stands still for longer than an election is followed by another one; when it goes on
// it has to notice that, and what it had not committed must not show.
func TestNothingIsLostByPausesOfTheLeader(t *testing.T) {
	t.Parallel()
	group := cluster.StartGroup(t, cluster.Three(cluster.Subject(t))...)
	tr := &trial{server: group, writes: 100, size: 64}
	tr.fault = func() error {
		leader := group.Leader()
		if err := leader.Pause(); err != nil {
			return err
		}
		others := slices.DeleteFunc(slices.Clone(group.Members), func(m *cluster.Member) bool {
			return m == leader
		})
		group.LeaderAmong(others)
		if err := leader.Resume(); err != nil {
			return err
		}
		// The paused member too has to see who leads now.
		group.Leader()
		return nil
	}
	if err := tr.run(t, rounds(t, 2, 50), pickSeed(t)); err != nil {
		t.Error(err)
	}
	if err := group.SameHashes(t.Context()); err != nil {
		t.Error(err)
	}
}
