package events

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Model is the store as its events make it.
type Model struct {
	// Keys are those of the last revision.
	Keys map[string]*mvccpb.KeyValue
	// The revision at which each value was written; the values of a key are unique.
	values map[string]int64
}

// NewModel is the empty store.
func NewModel() *Model {
	return &Model{Keys: map[string]*mvccpb.KeyValue{}, values: map[string]int64{}}
}

// Apply adds the events of all revisions from one to another, and checks that each follows from
// the one before.
func (m *Model) Apply(events []*mvccpb.Event, from, to int64) error {
	last := from - 1
	for _, event := range events {
		kv := event.Kv
		if kv.ModRevision != last && kv.ModRevision != last+1 {
			return fmt.Errorf("GAP: revision %d follows %d", kv.ModRevision, last)
		}
		last = kv.ModRevision
		key, before := string(kv.Key), m.Keys[string(kv.Key)]
		if event.Type == mvccpb.Event_DELETE {
			if before == nil {
				return fmt.Errorf("revision %d deletes %s, which is not there", last, key)
			}
			delete(m.Keys, key)
			continue
		}
		version, created := int64(1), kv.ModRevision
		if before != nil {
			version, created = before.Version+1, before.CreateRevision
		}
		if kv.Version != version || kv.CreateRevision != created {
			return fmt.Errorf("revision %d of %s has version %d, created %d; expected %d, %d",
				last, key, kv.Version, kv.CreateRevision, version, created)
		}
		id := key + "=" + string(kv.Value)
		if at, twice := m.values[id]; twice {
			return fmt.Errorf("TWICE: %.100q at revisions %d and %d", id, at, last)
		}
		m.values[id] = last
		m.Keys[key] = kv
	}
	if last != max(to, from-1) {
		return fmt.Errorf("GAP: the events end at %d, the revision is %d", last, to)
	}
	return nil
}

// CheckState compares a list of everything with the model.
func (m *Model) CheckState(state *pb.RangeResponse) error {
	if len(state.Kvs) != len(m.Keys) || int(state.Count) != len(m.Keys) {
		return fmt.Errorf("LOST: %d keys, count %d; the events make %d",
			len(state.Kvs), state.Count, len(m.Keys))
	}
	for _, kv := range state.Kvs {
		if !proto.Equal(kv, m.Keys[string(kv.Key)]) {
			return fmt.Errorf("LOST: the state has %v, the events make %v",
				kv, m.Keys[string(kv.Key)])
		}
	}
	return nil
}

// CheckSeen compares what a watcher has received with what a new one reads from a revision on.
func CheckSeen(events, seen []*mvccpb.Event, from int64) error {
	seen = since(seen, from)
	if len(seen) > len(events) {
		return fmt.Errorf("UNSEEN: a watcher has received %d events, there are %d",
			len(seen), len(events))
	}
	for i := range seen {
		if !proto.Equal(seen[i], events[i]) {
			return fmt.Errorf("UNSEEN: a watcher has received %v, a new one %v", seen[i], events[i])
		}
	}
	return nil
}

func since(events []*mvccpb.Event, from int64) []*mvccpb.Event {
	return slices.DeleteFunc(slices.Clone(events), func(event *mvccpb.Event) bool {
		return event.Kv.ModRevision < from
	})
}

// Changes are what a revision changes, by key; an empty value stands for a delete.
type Changes map[string]string

// ByRevision are the changes that events make.
func ByRevision(events []*mvccpb.Event) map[int64]Changes {
	all := map[int64]Changes{}
	for _, event := range events {
		changes := all[event.Kv.ModRevision]
		if changes == nil {
			changes = Changes{}
			all[event.Kv.ModRevision] = changes
		}
		changes[string(event.Kv.Key)] = string(event.Kv.Value)
	}
	return all
}
