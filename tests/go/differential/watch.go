package differential

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"trilith.dev/tests/internal/compare"
)

const (
	// deliveryTimeout bounds the wait for events and answers on watch streams.
	deliveryTimeout = 20 * time.Second
	pollInterval    = 2 * time.Millisecond
)

// deliveries are the messages of one watch stream of one server, sorted into what is compared.
type deliveries struct {
	send   func(*pb.WatchRequest) error
	cancel context.CancelFunc

	mutex sync.Mutex
	// Created and canceled answers in order of arrival, watch id by watch id.
	control map[int64][]*pb.WatchResponse
	created int
	events  map[int64][]*mvccpb.Event
	// Answers to asked-for progress, which are repeated until they come and so are not counted.
	progress []*pb.WatchResponse
	// The first breach of a rule that holds for every stream.
	breach string
	ended  *status.Status
	// The id whose fragmented response is not complete yet, or -1.
	fragmentOf int64
	lastEvent  map[int64]int64
}

func openDeliveries(connection *grpc.ClientConn) (*deliveries, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	d := &deliveries{
		send: stream.Send, cancel: cancel, fragmentOf: -1,
		control:   map[int64][]*pb.WatchResponse{},
		events:    map[int64][]*mvccpb.Event{},
		lastEvent: map[int64]int64{},
	}
	go func() {
		for {
			response, err := stream.Recv()
			d.mutex.Lock()
			if err != nil {
				d.ended = status.Convert(err)
				d.mutex.Unlock()
				return
			}
			d.take(response)
			d.mutex.Unlock()
		}
	}()
	return d, nil
}

// take sorts one response in and checks the rules that need no second server.
func (d *deliveries) take(response *pb.WatchResponse) {
	id := response.WatchId
	note := func(rule string) {
		if d.breach == "" {
			d.breach = rule + ":\n" + prototext.Format(response)
		}
	}
	if d.fragmentOf != -1 && d.fragmentOf != id {
		note("another watcher's response between fragments")
	}
	continues := d.fragmentOf == id
	d.fragmentOf = -1
	if response.Fragment {
		d.fragmentOf = id
	}
	if response.Created || response.Canceled {
		if len(response.Events) > 0 {
			note("events in a created or canceled response")
		}
		if response.Created {
			d.created++
		}
		d.control[id] = append(d.control[id], response)
		return
	}
	if len(response.Events) == 0 {
		if id == -1 {
			d.progress = append(d.progress, response)
		}
		// Periodic progress of a watcher comes at times that nobody compares.
		return
	}
	if len(d.control[id]) == 0 {
		note("events before the created response")
	}
	for i, event := range response.Events {
		revision := event.Kv.ModRevision
		if revision < d.lastEvent[id] {
			note("events out of order")
		}
		if i == 0 && revision == d.lastEvent[id] && !continues {
			note("events of one revision in two responses")
		}
		d.lastEvent[id] = revision
	}
	if response.Header.Revision < d.lastEvent[id] {
		note("header revision is older than the events")
	}
	d.events[id] = append(d.events[id], response.Events...)
}

// await polls until the condition holds.
func (d *deliveries) await(what string, holds func() bool) error {
	deadline := time.Now().Add(deliveryTimeout)
	for {
		d.mutex.Lock()
		done, ended, breach := holds(), d.ended, d.breach
		d.mutex.Unlock()
		switch {
		case breach != "":
			return fmt.Errorf("%s", breach)
		case done:
			return nil
		case ended != nil:
			return fmt.Errorf("the stream ended with %v %q before %s",
				ended.Code(), ended.Message(), what)
		case time.Now().After(deadline):
			return fmt.Errorf("%s did not come within %v", what, deliveryTimeout)
		}
		time.Sleep(pollInterval)
	}
}

// watcher is what the driver knows of a watcher that both servers have created.
type watcher struct {
	key, end []byte
	start    int64
	// The start revision of the request, 0 for "from now on".
	asked            int64
	noPut, noDelete  bool
	answersToCancel  int
	canceledByServer bool
	// How many events are expected and not compared yet, and how far the history is counted.
	expected, scanned int
}

func (w *watcher) wants(event *mvccpb.Event) bool {
	if event.Kv.ModRevision < w.start || w.canceledByServer {
		return false
	}
	if event.Type == mvccpb.Event_PUT && w.noPut || event.Type == mvccpb.Event_DELETE && w.noDelete {
		return false
	}
	key := string(event.Kv.Key)
	switch {
	case len(w.end) == 0:
		return key == string(w.key)
	case len(w.end) == 1 && w.end[0] == 0:
		return key >= string(w.key)
	}
	return key >= string(w.key) && key < string(w.end)
}

// compareControl compares the created and canceled answers of one stream.
func compareControl(reference, subject *deliveries) string {
	for id, wanted := range reference.control {
		got := subject.control[id]
		if len(got) != len(wanted) {
			return fmt.Sprintf("watch id %d: etcd has sent %d created or canceled answers, "+
				"the subject %d\netcd: %v\nsubject: %v", id, len(wanted), len(got), wanted, got)
		}
		for i := range wanted {
			if text := compare.Difference(nil, wanted[i], got[i]); text != "" {
				return fmt.Sprintf("watch id %d: %s", id, text)
			}
		}
	}
	for id, got := range subject.control {
		if len(reference.control[id]) == 0 {
			return fmt.Sprintf("only the subject answers for watch id %d: %v", id, got)
		}
	}
	return ""
}

// compareEvents compares the events of one watcher, which both sides have delivered in full.
func compareEvents(reference, subject []*mvccpb.Event) string {
	for i := range max(len(reference), len(subject)) {
		if i >= len(reference) || i >= len(subject) {
			return fmt.Sprintf("etcd has delivered %d events, the subject %d\netcd: %v\nsubject: %v",
				len(reference), len(subject), reference, subject)
		}
		if !proto.Equal(reference[i], subject[i]) {
			return fmt.Sprintf("event %d\netcd: %v\nsubject: %v", i, reference[i], subject[i])
		}
	}
	return ""
}
