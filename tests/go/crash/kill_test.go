package crash

import (
	"testing"

	"trilith.dev/tests/internal/cluster"
)

const shortKills, soakKills = 5, 200

func TestNothingIsLostByKill(t *testing.T) {
	t.Parallel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	tr := &trial{server: member, writes: 400, size: 64, fault: func() error {
		member.Kill()
		return nil
	}}
	if err := tr.run(t, rounds(t, shortKills, soakKills), pickSeed(t)); err != nil {
		t.Error(err)
	}
}

func TestNothingIsLostByGracefulStops(t *testing.T) {
	t.Parallel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	tr := &trial{server: member, writes: 200, size: 64, fault: member.Stop}
	if err := tr.run(t, rounds(t, 2, 20), pickSeed(t)); err != nil {
		t.Error(err)
	}
}

// The checker has to notice when acknowledged writes are gone, or the tests above mean nothing.
func TestTheCheckerNoticesLoss(t *testing.T) {
	t.Parallel()
	member := cluster.Start(t, cluster.Subject(t), cluster.Options{})
	tr := &trial{server: member, writes: 50, size: 64}
	tr.fault = func() error {
		member.Kill()
		return removeAll(member.DataDir)
	}
	if err := tr.run(t, 1, pickSeed(t)); err == nil {
		t.Error("all data is gone, and the checker is content")
	} else {
		t.Logf("as it should: %.300v", err)
	}
}
