// Package bbolt compares our bbolt files with Go's, in both directions.
package bbolt

import (
	"encoding/hex"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// shape is what a file is made of.
type shape struct {
	name     string
	pageSize int
	// buckets and pairs in each of them.
	buckets, pairs int
	// value bytes are random up to this; keys up to keyMax.
	keyMax, valueMax int
	// nested buckets in each bucket.
	nested int
	// deleted is the part of the pairs that is deleted again, in other transactions.
	deleted float64
	// noFreelist keeps no free list in the file, as etcd does.
	noFreelist bool
}

func shapes() []shape {
	return []shape{
		{name: "nothing", pageSize: 4096},
		{name: "empty buckets", pageSize: 4096, buckets: 3, noFreelist: true},
		{name: "inline", pageSize: 4096, buckets: 40, pairs: 3, keyMax: 20, valueMax: 60},
		{name: "small pages", pageSize: 1024, buckets: 3, pairs: 3000, keyMax: 30, valueMax: 100},
		{name: "as etcd", pageSize: 4096, buckets: 4, pairs: 5000, keyMax: 18, valueMax: 300,
			deleted: 0.3, noFreelist: true},
		{name: "large values", pageSize: 4096, buckets: 2, pairs: 60, keyMax: 40, valueMax: 60000},
		{name: "large keys", pageSize: 4096, buckets: 2, pairs: 300, keyMax: 32768, valueMax: 10},
		{name: "nested", pageSize: 4096, buckets: 5, pairs: 300, keyMax: 20, valueMax: 200,
			nested: 3, deleted: 0.5},
		{name: "mostly free", pageSize: 4096, buckets: 2, pairs: 8000, keyMax: 20, valueMax: 400,
			deleted: 0.95},
		{name: "64 KiB pages", pageSize: 65536, buckets: 2, pairs: 4000, keyMax: 20, valueMax: 300,
			deleted: 0.2},
	}
}

// make writes a file of the shape with Go's bbolt, over several transactions.
func (s shape) make(t testing.TB, path string, random *rand.Rand) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize: s.pageSize, NoSync: true, NoFreelistSync: s.noFreelist,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for number := range s.buckets {
		name := fmt.Appendf(nil, "bucket %d", number)
		err := db.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucket(name)
			if err != nil {
				return err
			}
			for inner := range s.nested {
				nested, err := bucket.CreateBucket(fmt.Appendf(nil, "nested %d", inner))
				if err != nil {
					return err
				}
				if err := s.fill(nested, random, s.pairs/(inner*inner+1)); err != nil {
					return err
				}
			}
			return s.fill(bucket, random, s.pairs)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error {
			return s.thin(tx.Bucket(name), random)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s shape) fill(bucket *bolt.Bucket, random *rand.Rand, pairs int) error {
	for range pairs {
		key := randomBytes(random, 1+random.Intn(s.keyMax))
		if err := bucket.Put(key, randomBytes(random, random.Intn(s.valueMax))); err != nil {
			return err
		}
	}
	return nil
}

// thin deletes a part of the pairs.
func (s shape) thin(bucket *bolt.Bucket, random *rand.Rand) error {
	var keys [][]byte
	err := bucket.ForEach(func(key, value []byte) error {
		if value != nil && random.Float64() < s.deleted {
			keys = append(keys, append([]byte{}, key...))
		}
		return nil
	})
	for _, key := range keys {
		if err == nil {
			err = bucket.Delete(key)
		}
	}
	return err
}

func randomBytes(random *rand.Rand, length int) []byte {
	bytes := make([]byte, length)
	random.Read(bytes)
	return bytes
}

// goDump checks a file with Go's bbolt and returns it as lines of text, as bbolt_text does.
func goDump(t testing.TB, path string) string {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("Go's bbolt does not open %s: %v", path, err)
	}
	defer db.Close()
	var text strings.Builder
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("Go's bbolt finds fault with %s: %v", path, err)
		}
		return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
			fmt.Fprintf(&text, "bucket 0 .%s\n", hex.EncodeToString(name))
			return dumpBucket(&text, bucket, 1)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func dumpBucket(text *strings.Builder, bucket *bolt.Bucket, depth int) error {
	return bucket.ForEach(func(key, value []byte) error {
		if value == nil {
			fmt.Fprintf(text, "bucket %d .%s\n", depth, hex.EncodeToString(key))
			return dumpBucket(text, bucket.Bucket(key), depth+1)
		}
		fmt.Fprintf(text, "pair %d .%s .%s\n", depth, hex.EncodeToString(key), hex.EncodeToString(value))
		return nil
	})
}
