// Package faults hurts clusters on hosts of their own in every way that the machines and the network
// between them can, and proves from the histories of all clients that nobody was told a lie.
package faults

import (
	"fmt"
	"sort"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"trilith.dev/tests/internal/events"
)

// call is one operation of a client.
type call struct {
	what string
	// When it was sent and answered, since the trial began.
	sent, answered time.Duration
	// err means that nobody knows whether the operation has been done.
	err error
	// revision is that of the answer.
	revision int64
	// changes are what the operation writes, if it does; answered calls that wrote nothing have none.
	changes events.Changes
	// key is what the operation reads or compares.
	key string
	// read is what the operation has seen of the key, or nil.
	read *sight
	// compared is the revision that a key had to have for the changes to be made, or nil.
	compared *int64
	// stale allows the past to be read.
	stale bool
}

// sight is a key as an answer shows it: nil where it was not there.
type sight struct{ kv *mvccpb.KeyValue }

func (c *call) String() string {
	text := fmt.Sprintf("%s, sent at %v, answered at %v", c.what, c.sent, c.answered)
	if c.err != nil {
		return fmt.Sprintf("%s: %v", text, c.err)
	}
	return fmt.Sprintf("%s: revision %d, changes %q, read %v", text, c.revision, c.changes, c.read)
}

// history is what all clients have done, in the order of the answers.
type history struct {
	mutex sync.Mutex
	start time.Time
	calls []*call
	// How many were answered, how many of these were writes, and how many were not answered.
	answered, written, unknown int
}

func newHistory() *history { return &history{start: time.Now()} }

func (h *history) now() time.Duration { return time.Since(h.start) }

func (h *history) add(done *call) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.calls = append(h.calls, done)
	if done.err != nil {
		h.unknown++
	} else {
		h.answered++
		if done.changes != nil {
			h.written++
		}
	}
}

func (h *history) countWritten() int {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.written
}

// take hands over the calls since the last time.
func (h *history) take() []*call {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	taken := h.calls
	h.calls = nil
	return taken
}

// versions are all states that keys have ever had, in their order.
type versions map[string][]*mvccpb.Event

func (v versions) add(all []*mvccpb.Event) {
	for _, event := range all {
		v[string(event.Kv.Key)] = append(v[string(event.Kv.Key)], event)
	}
}

// at is a key as of a revision, or nil.
func (v versions) at(key string, revision int64) *mvccpb.KeyValue {
	states := v[key]
	after := sort.Search(len(states), func(i int) bool {
		return states[i].Kv.ModRevision > revision
	})
	if after == 0 || states[after-1].Type == mvccpb.Event_DELETE {
		return nil
	}
	return states[after-1].Kv
}
