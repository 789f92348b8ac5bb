// Package boltfile reads etcd's bbolt files with Go's bbolt, and checks them on the way.
package boltfile

import (
	"errors"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// Content is every bucket of a file with its pairs.
type Content struct {
	Buckets map[string]map[string]string
	// Hash is over everything, as etcdutl computes it.
	Hash uint32
	// MemberHash is over what members agree on, as the RPC `Hash` computes it.
	MemberHash uint32
	// Records are the keys of the bucket `key`, in order.
	Records []string
}

// OwnKeys of the bucket `meta` may differ from member to member.
var OwnKeys = map[string]bool{"consistent_index": true, "term": true, "storageVersion": true}

// Read returns what a file holds; an error if bbolt's check finds fault with it.
func Read(path string) (Content, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return Content{}, err
	}
	defer db.Close()
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	all, agreed := crc32.New(castagnoli), crc32.New(castagnoli)
	found := Content{Buckets: map[string]map[string]string{}}
	err = db.View(func(tx *bolt.Tx) error {
		var faults []error
		for fault := range tx.Check() {
			faults = append(faults, fault)
		}
		if len(faults) > 0 {
			return fmt.Errorf("bbolt finds fault with the file: %w", errors.Join(faults...))
		}
		return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
			all.Write(name)
			agreed.Write(name)
			pairs := map[string]string{}
			found.Buckets[string(name)] = pairs
			return bucket.ForEach(func(key, value []byte) error {
				all.Write(key)
				all.Write(value)
				if string(name) != "meta" || !OwnKeys[string(key)] {
					agreed.Write(key)
					agreed.Write(value)
				}
				if string(name) == "key" {
					found.Records = append(found.Records, string(key))
				}
				pairs[string(key)] = string(value)
				return nil
			})
		})
	})
	found.Hash, found.MemberHash = all.Sum32(), agreed.Sum32()
	return found, err
}

// Shared returns the buckets without what is a member's own.
func (c Content) Shared() map[string]map[string]string {
	for key := range OwnKeys {
		delete(c.Buckets["meta"], key)
	}
	return c.Buckets
}
