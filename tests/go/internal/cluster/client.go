package cluster

import (
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Connect gives etcd's own client of the member, closed at the end of the test. Endpoints are those of
// the member; the rest is as config says.
func (m *Member) Connect(config clientv3.Config) *clientv3.Client {
	m.t.Helper()
	config.Endpoints = []string{m.Client}
	client, err := clientv3.New(config)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { client.Close() })
	return client
}
