//! etcd messages.
