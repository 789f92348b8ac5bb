package differential

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// pair returns the stream of an operation, opening it on both servers when it is new.
func (s *session) pair(o operation) (*watchPair, error) {
	if pair := s.streams[o.stream]; pair != nil {
		return pair, nil
	}
	reference, err := openDeliveries(s.members[o.member].reference)
	if err != nil {
		return nil, err
	}
	subject, err := openDeliveries(s.members[o.member].subject)
	if err != nil {
		return nil, err
	}
	pair := &watchPair{
		member: o.member, reference: reference, subject: subject, watchers: map[int64]*watcher{},
	}
	s.streams[o.stream] = pair
	return pair, nil
}

// request sends the same watch request to both servers.
func (p *watchPair) request(request *pb.WatchRequest) error {
	for _, side := range []*deliveries{p.reference, p.subject} {
		if err := side.send(request); err != nil {
			return fmt.Errorf("%s: %w", p.name(side), err)
		}
	}
	return nil
}

// each waits for a condition on both servers.
func (p *watchPair) each(what string, holds func(*deliveries) bool) error {
	for _, side := range []*deliveries{p.reference, p.subject} {
		err := side.await(p.name(side)+": "+what, func() bool { return holds(side) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) watchCreate(o operation) error {
	pair, err := s.pair(o)
	if err != nil {
		return err
	}
	if pair.member != o.member {
		// Where it starts depends on what the stream's own member has applied.
		if err := s.catchUp(pair.member); err != nil {
			return err
		}
	}
	create := o.request.(*pb.WatchCreateRequest)
	err = pair.request(&pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create},
	})
	if err != nil {
		return err
	}
	pair.created++
	err = pair.each("the created response", func(side *deliveries) bool {
		return side.created >= pair.created
	})
	if err != nil {
		return err
	}
	id, accepted := pair.newest()
	if !accepted {
		return nil
	}
	w := s.newWatcher(create)
	if create.StartRevision > 0 && create.StartRevision < s.compacted {
		w.canceledByServer = true
		w.answersToCancel = 1
		err = pair.each("the cancellation by compaction", func(side *deliveries) bool {
			return countCanceled(side.control[id]) == 1
		})
	}
	pair.watchers[id] = w
	return err
}

// newest returns the id of the watcher that etcd created last, and whether it was accepted.
func (p *watchPair) newest() (int64, bool) {
	p.reference.mutex.Lock()
	defer p.reference.mutex.Unlock()
	for id, answers := range p.reference.control {
		if id == -1 || p.watchers[id] != nil {
			continue
		}
		// An id may be used again after its cancellation, so the last answer decides.
		for i := len(answers) - 1; i >= 0; i-- {
			if answers[i].Created {
				if i == len(answers)-1 || answers[i+1].CompactRevision > 0 {
					return id, true
				}
				break
			}
		}
	}
	return 0, false
}

func countCanceled(answers []*pb.WatchResponse) int {
	count := 0
	for _, answer := range answers {
		if answer.Canceled {
			count++
		}
	}
	return count
}

func (s *session) newWatcher(create *pb.WatchCreateRequest) *watcher {
	w := &watcher{
		key: create.Key, end: create.RangeEnd,
		start: create.StartRevision, asked: create.StartRevision,
	}
	if len(w.key) == 0 {
		w.key = []byte{0}
	}
	if w.start == 0 {
		w.start = s.revision + 1
	}
	for _, filter := range create.Filters {
		w.noPut = w.noPut || filter == pb.WatchCreateRequest_NOPUT
		w.noDelete = w.noDelete || filter == pb.WatchCreateRequest_NODELETE
	}
	return w
}

func (s *session) watchCancel(o operation) error {
	pair := s.streams[o.stream]
	if pair == nil {
		return nil
	}
	// Events on their way when the request arrives may or may not be sent.
	if err := s.sync(); err != nil {
		return err
	}
	cancel := o.request.(*pb.WatchCancelRequest)
	err := pair.request(&pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: cancel},
	})
	if err != nil {
		return err
	}
	w := pair.watchers[cancel.WatchId]
	if w == nil {
		// Nothing answers; an answer that comes all the same shows at the next sync.
		return nil
	}
	err = pair.each("the canceled response", func(side *deliveries) bool {
		return countCanceled(side.control[cancel.WatchId]) > w.answersToCancel
	})
	if err != nil {
		return err
	}
	// The id may be used again: compare and forget what belongs to the old watcher.
	if err := s.syncPair(pair); err != nil {
		return err
	}
	for _, side := range []*deliveries{pair.reference, pair.subject} {
		side.mutex.Lock()
		delete(side.control, cancel.WatchId)
		delete(side.events, cancel.WatchId)
		delete(side.lastEvent, cancel.WatchId)
		side.mutex.Unlock()
	}
	delete(pair.watchers, cancel.WatchId)
	return nil
}

// watchProgress asks both servers for progress. Where an answer is due, every sync asks too, so
// this is about streams that have to stay silent: what they send all the same shows at the next
// sync.
func (s *session) watchProgress(o operation) error {
	pair := s.streams[o.stream]
	if pair == nil {
		return nil
	}
	if err := s.sync(); err != nil || s.answersProgress(pair) {
		return err
	}
	for _, side := range []*deliveries{pair.reference, pair.subject} {
		side.mutex.Lock()
		side.progress = nil
		side.mutex.Unlock()
	}
	pair.silent = true
	return pair.request(progressRequest)
}

var progressRequest = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
	ProgressRequest: &pb.WatchProgressRequest{},
}}

// answersProgress tells whether every watcher of a stream can become synced, which is when servers
// answer a request for progress.
func (s *session) answersProgress(pair *watchPair) bool {
	for _, w := range pair.watchers {
		if w.canceledByServer || w.asked > s.revision {
			return false
		}
	}
	return len(pair.watchers) > 0
}

// awaitProgress repeats the request for progress until both servers have answered. From then on no
// watcher of the stream lags, which matters before a compaction.
func (s *session) awaitProgress(pair *watchPair) error {
	for _, side := range []*deliveries{pair.reference, pair.subject} {
		side.mutex.Lock()
		side.progress = nil
		side.mutex.Unlock()
		asked := 0
		err := side.await(pair.name(side)+": the progress response", func() bool {
			for _, response := range side.progress {
				if response.Header.Revision == s.revision {
					return true
				}
			}
			if asked++; asked%repeatEvery == 1 {
				_ = side.send(progressRequest)
			}
			return false
		})
		if err != nil {
			return fmt.Errorf("%w (revision %d, watchers %v)", err, s.revision, pair.watchers)
		}
	}
	return nil
}

// repeatEvery is how many polls lie between two requests for progress, which is about 30 ms.
const repeatEvery = 15
