// Command descriptors prints what etcd's protobuf packages declare, one line each, sorted.
//
// The test proto/tests/descriptors.rs prints the same lines from our own .proto files and
// compares, so that a name, number or type that differs from etcd's cannot slip in.
package main

import (
	"fmt"
	"sort"
	"strings"

	_ "go.etcd.io/etcd/api/v3/authpb"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/api/v3/membershippb"
	_ "go.etcd.io/etcd/api/v3/mvccpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/snap/snappb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	_ "go.etcd.io/etcd/server/v3/lease/leasepb"
	_ "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	_ "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

var lines []string

func add(format string, args ...any) {
	lines = append(lines, fmt.Sprintf(format, args...))
}

func main() {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		options := file.Options().(*descriptorpb.FileOptions)
		if strings.HasPrefix(options.GetGoPackage(), "go.etcd.io/") {
			messages(file.Messages())
			enums(file.Enums())
			services(file.Services())
		}
		return true
	})
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
}

func messages(all protoreflect.MessageDescriptors) {
	for i := range all.Len() {
		message := all.Get(i)
		add("message %s", message.FullName())
		fields(message)
		enums(message.Enums())
		messages(message.Messages())
	}
}

func fields(message protoreflect.MessageDescriptor) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		kind := field.Kind().String()
		if inner := field.Message(); inner != nil {
			kind += " " + string(inner.FullName())
		}
		if inner := field.Enum(); inner != nil {
			kind += " " + string(inner.FullName())
		}
		if oneof := field.ContainingOneof(); oneof != nil {
			kind += " oneof " + string(oneof.Name())
		}
		if field.IsPacked() {
			kind += " packed"
		}
		add("field %s = %d %s %s json %s", field.FullName(), field.Number(), field.Cardinality(),
			kind, field.JSONName())
	}
}

func enums(all protoreflect.EnumDescriptors) {
	for i := range all.Len() {
		enum := all.Get(i)
		for j := range enum.Values().Len() {
			value := enum.Values().Get(j)
			add("enum %s %s = %d", enum.FullName(), value.Name(), value.Number())
		}
	}
}

func services(all protoreflect.ServiceDescriptors) {
	for i := range all.Len() {
		service := all.Get(i)
		for j := range service.Methods().Len() {
			method := service.Methods().Get(j)
			add("method %s %s client stream %t -> %s server stream %t", method.FullName(),
				method.Input().FullName(), method.IsStreamingClient(),
				method.Output().FullName(), method.IsStreamingServer())
		}
	}
}
