// Package cluster starts etcd and Trilith members for the black-box tests.
package cluster

import (
	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/client/v3"
	_ "go.etcd.io/etcd/client/v3/concurrency"
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
)
