// Package differential sends the same operations to etcd 3.7.3 and to Trilith and compares every
// field of every reply, every error, every watch event, and the hashes of the stored history.
package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"trilith.dev/tests/internal/compare"
)

// callTimeout bounds one call; no healthy server needs it on any machine that can run the tests.
const callTimeout = 30 * time.Second

// operation is one step of a run. It holds everything that is needed to send it again.
type operation struct {
	// method is the full gRPC method, or one of the watch verbs below.
	method  string
	request proto.Message
	// stream is the number of a watch stream, for the watch verbs.
	stream int
	// member is the number of the member that is asked, on both sides. A stream stays with the one
	// that it was opened at.
	member int
}

// The verbs of watch streams. Opening is implied by the first use of a stream's number.
const (
	watchCreate   = "watch create"
	watchCancel   = "watch cancel"
	watchProgress = "watch progress"
	watchClose    = "watch close"
	// watchSync waits until both sides have delivered everything, and compares it.
	watchSync = "watch sync"
)

func (o operation) String() string {
	text := o.method
	if strings.HasPrefix(o.method, "watch") {
		text = fmt.Sprintf("%s, stream %d", o.method, o.stream)
	}
	if o.member != 0 {
		text += fmt.Sprintf(", member %d", o.member)
	}
	if o.request != nil {
		written := prototext.MarshalOptions{}.Format(o.request)
		if len(written) > 2000 {
			written = written[:2000] + "..."
		}
		text += " { " + written + " }"
	}
	return text
}

// outcome is what a call came to.
type outcome struct {
	replies []proto.Message
	status  *status.Status
}

func (o outcome) String() string {
	text := fmt.Sprintf("%v %q, %d messages", o.status.Code(), o.status.Message(), len(o.replies))
	for _, reply := range o.replies {
		text += "\n" + prototext.Format(reply)
	}
	return text
}

// call sends a request by the descriptor of its method: unary, server stream, or a bidirectional
// stream that gets one request and answers once.
func call(connection *grpc.ClientConn, method string, request proto.Message) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	descriptor, err := methodDescriptor(method)
	if err != nil {
		return outcome{status: status.Convert(err)}
	}
	if !descriptor.IsStreamingServer() {
		reply := newReply(descriptor)
		if err := connection.Invoke(ctx, method, request, reply); err != nil {
			return outcome{status: status.Convert(err)}
		}
		return outcome{replies: []proto.Message{reply}, status: status.New(0, "")}
	}
	replies, err := exchange(ctx, connection, descriptor, method, request)
	return outcome{replies: replies, status: status.Convert(err)}
}

func exchange(ctx context.Context, connection *grpc.ClientConn,
	descriptor protoreflect.MethodDescriptor, method string, request proto.Message,
) (replies []proto.Message, err error) {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{
		ServerStreams: true, ClientStreams: descriptor.IsStreamingClient(),
	}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	for {
		reply := newReply(descriptor)
		err := stream.RecvMsg(reply)
		if errors.Is(err, io.EOF) {
			return replies, nil
		}
		if err != nil {
			return replies, err
		}
		replies = append(replies, reply)
	}
}

func methodDescriptor(method string) (protoreflect.MethodDescriptor, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return descriptor.(protoreflect.MethodDescriptor), nil
}

func newReply(method protoreflect.MethodDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		panic(err)
	}
	return kind.New().Interface()
}

// compareOutcomes says how two outcomes of one operation differ, or is empty.
func compareOutcomes(o operation, reference, subject outcome) string {
	if reference.status.Code() != subject.status.Code() ||
		reference.status.Message() != subject.status.Message() {
		return fmt.Sprintf("etcd: %v\nsubject: %v", reference, subject)
	}
	if len(reference.replies) != len(subject.replies) {
		return fmt.Sprintf("etcd: %v\nsubject: %v", reference, subject)
	}
	for i := range reference.replies {
		text := compare.Difference(o.request, reference.replies[i], subject.replies[i])
		if text != "" {
			return fmt.Sprintf("reply %d: %s", i, text)
		}
	}
	return ""
}
