package differential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// session is one run of operations against two fresh servers, or clusters of as many members.
type session struct {
	members   []counterparts
	revision  int64
	compacted int64
	streams   map[int]*watchPair
	history   *history
	// Compactions whose hash a member of both sides is known to have kept.
	hashed []compaction
	// The member at which the last compaction was waited for, or -1.
	finished int
	// How often each method ended with each code, to see what a run has covered.
	tally map[string]int
}

// counterparts are connections to a member of each side.
type counterparts struct{ reference, subject *grpc.ClientConn }

type compaction struct {
	revision int64
	member   int
}

// watchPair is one watch stream, opened on both servers.
type watchPair struct {
	member             int
	reference, subject *deliveries
	// What is left to compare, by watch id.
	watchers map[int64]*watcher
	created  int
	// Progress was asked for while the stream could not be synced, so nothing may answer.
	silent bool
}

func newSession(members []counterparts) (*session, error) {
	past, err := openHistory(members[0].reference)
	if err != nil {
		return nil, err
	}
	for _, member := range members {
		for _, server := range []*grpc.ClientConn{member.reference, member.subject} {
			if err := awaitStorageVersion(server); err != nil {
				return nil, err
			}
		}
	}
	return &session{
		members: members, revision: 1, streams: map[int]*watchPair{}, history: past,
		tally: map[string]int{},
	}, nil
}

// awaitStorageVersion waits for what a member decides on its own some time after it has started.
func awaitStorageVersion(server *grpc.ClientConn) error {
	deadline := time.Now().Add(deliveryTimeout)
	for {
		answer := call(server, pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{})
		if len(answer.replies) != 1 {
			return fmt.Errorf("status: %v", answer)
		}
		if answer.replies[0].(*pb.StatusResponse).StorageVersion != "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no storage version after %v: %v", deliveryTimeout, answer)
		}
		time.Sleep(pollInterval)
	}
}

func (s *session) close() {
	for _, pair := range s.streams {
		pair.close()
	}
	s.history.cancel()
}

func (p *watchPair) close() {
	p.reference.cancel()
	p.subject.cancel()
}

// do sends an operation to both servers; an error is a difference or a broken server.
func (s *session) do(o operation) error {
	if len(s.members) > 1 {
		if err := s.catchUp(o.member); err != nil {
			return err
		}
	}
	switch o.method {
	case watchCreate:
		return s.watchCreate(o)
	case watchCancel:
		return s.watchCancel(o)
	case watchProgress:
		return s.watchProgress(o)
	case watchClose:
		if pair := s.streams[o.stream]; pair != nil {
			pair.close()
			delete(s.streams, o.stream)
		}
		return nil
	case watchSync:
		return s.sync()
	}
	if o.method == pb.KV_Compact_FullMethodName {
		// Whether a watcher that lags is canceled by a compaction is a race in etcd too.
		if err := s.sync(); err != nil {
			return err
		}
	}
	reference, err := s.both(o)
	if err != nil {
		return err
	}
	s.learn(o, reference)
	return nil
}

// catchUp lets a member of each side apply all that was done through others, by a linearizable
// read. What it is asked then without looking at the others must not be the past.
func (s *session) catchUp(member int) error {
	read := unary(pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: []byte("k")})
	read.member = member
	_, err := s.both(read)
	return err
}

// both calls the two servers at the same time and compares what comes back.
func (s *session) both(o operation) (outcome, error) {
	var reference, subject outcome
	var wait sync.WaitGroup
	asked := s.members[o.member]
	wait.Go(func() { reference = call(asked.reference, o.method, o.request) })
	wait.Go(func() { subject = call(asked.subject, o.method, o.request) })
	wait.Wait()
	if len(s.members) > 1 {
		hideElection(reference, subject)
	}
	s.tally[fmt.Sprintf("%s %v", o.method, reference.status.Code())]++
	if text := compareOutcomes(o, reference, subject); text != "" {
		return reference, errors.New(text)
	}
	return reference, nil
}

// hideElection makes equal what depends on who was elected, which is a race: the leader in a
// member's status, and the order of leases, which is that of their deadlines, since only the leader
// keeps these.
func hideElection(outcomes ...outcome) {
	for _, outcome := range outcomes {
		for _, reply := range outcome.replies {
			switch reply := reply.(type) {
			case *pb.StatusResponse:
				reply.Leader = min(reply.Leader, 1)
			case *pb.LeaseLeasesResponse:
				slices.SortFunc(reply.Leases, func(a, b *pb.LeaseStatus) int {
					return cmp.Compare(a.ID, b.ID)
				})
			}
		}
	}
}

// learn follows the revisions, which the generator and the watch oracle need.
func (s *session) learn(o operation, reference outcome) {
	for _, reply := range reference.replies {
		if headed, ok := reply.(interface{ GetHeader() *pb.ResponseHeader }); ok {
			s.revision = max(s.revision, headed.GetHeader().GetRevision())
		}
	}
	compact, ok := o.request.(*pb.CompactionRequest)
	if !ok || len(reference.replies) == 0 {
		return
	}
	s.compacted = compact.Revision
	if !compact.Physical {
		s.finished = -1
		return
	}
	if s.finished == o.member {
		s.hashed = append(s.hashed, compaction{compact.Revision, o.member})
	}
	s.finished = o.member
}

// sync waits until every watcher of both servers has delivered all events up to the current
// revision, and compares what was delivered since the last time.
func (s *session) sync() error {
	// The first revision, that of the empty store, has no event.
	if s.revision > 1 {
		if err := s.history.awaitRevision(s.revision); err != nil {
			return err
		}
	}
	for number, pair := range s.streams {
		if s.answersProgress(pair) {
			pair.silent = false
			if err := s.awaitProgress(pair); err != nil {
				return fmt.Errorf("watch stream %d: %w", number, err)
			}
		}
		if err := s.syncPair(pair); err != nil {
			return fmt.Errorf("watch stream %d: %w", number, err)
		}
	}
	return nil
}

func (s *session) syncPair(pair *watchPair) error {
	for id, w := range pair.watchers {
		expected := s.history.expect(w)
		for _, side := range []*deliveries{pair.reference, pair.subject} {
			what := fmt.Sprintf("%s: all %d events of watch id %d", pair.name(side), expected, id)
			err := side.await(what, func() bool { return len(side.events[id]) >= expected })
			if err != nil {
				side.mutex.Lock()
				got := len(side.events[id])
				side.mutex.Unlock()
				return fmt.Errorf("%w (there are %d; watcher %+v)", err, got, w)
			}
		}
	}
	pair.reference.mutex.Lock()
	defer pair.reference.mutex.Unlock()
	pair.subject.mutex.Lock()
	defer pair.subject.mutex.Unlock()
	if text := compareControl(pair.reference, pair.subject); text != "" {
		return errors.New(text)
	}
	for id := range pair.watchers {
		text := compareEvents(pair.reference.events[id], pair.subject.events[id])
		if text != "" {
			return fmt.Errorf("watch id %d: %s", id, text)
		}
		delete(pair.reference.events, id)
		delete(pair.subject.events, id)
		pair.watchers[id].expected = 0
	}
	if pair.silent && len(pair.reference.progress)+len(pair.subject.progress) > 0 {
		return fmt.Errorf("progress answers from a stream that is not synced: etcd %v, subject %v",
			pair.reference.progress, pair.subject.progress)
	}
	return nil
}

func (p *watchPair) name(side *deliveries) string {
	if side == p.reference {
		return "etcd"
	}
	return "subject"
}

// history receives every event from etcd's first revision on: the oracle for how many events a
// watcher has to get.
type history struct {
	cancel context.CancelFunc
	mutex  sync.Mutex
	events []*mvccpb.Event
	ended  error
}

func openHistory(connection *grpc.ClientConn) (*history, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{
			// The first revision with an event, and still to come: a watcher that starts in the
			// past lags for a moment, and a compaction would cancel it.
			Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 2,
		},
	}})
	if err != nil {
		cancel()
		return nil, err
	}
	if created, err := stream.Recv(); err != nil || !created.Created {
		cancel()
		return nil, fmt.Errorf("the history's watcher: %v, %w", created, err)
	}
	h := &history{cancel: cancel}
	go func() {
		for {
			response, err := stream.Recv()
			h.mutex.Lock()
			if err == nil && response.Canceled {
				err = fmt.Errorf("the history's watcher was canceled: %v", response)
			}
			if err != nil {
				h.ended = err
				h.mutex.Unlock()
				return
			}
			h.events = append(h.events, response.Events...)
			h.mutex.Unlock()
		}
	}()
	return h, nil
}

func (h *history) lastSeen() int64 {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if len(h.events) == 0 {
		return 0
	}
	return h.events[len(h.events)-1].Kv.ModRevision
}

func (h *history) awaitRevision(revision int64) error {
	deadline := time.Now().Add(deliveryTimeout)
	for h.lastSeen() < revision {
		h.mutex.Lock()
		ended := h.ended
		h.mutex.Unlock()
		if ended != nil {
			return ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("etcd has not sent the event of revision %d", revision)
		}
		time.Sleep(pollInterval)
	}
	return nil
}

// expect counts the events that a watcher has to receive and that are not compared yet.
func (h *history) expect(w *watcher) int {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for ; w.scanned < len(h.events); w.scanned++ {
		if w.wants(h.events[w.scanned]) {
			w.expected++
		}
	}
	return w.expected
}
